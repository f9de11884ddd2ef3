//! Models that draw things of classes (ADM): a class stands in the place of a caption.

use unclip_core::{InvalidSetting, check_guidance_scale};
use unclip_decoder::{Condition, DecoderConfig};

use crate::bundle::missing;
use crate::{Bound, Bundle, Error, GenerateOptions, Run, Settings, StageId, StageSettings};

impl Bundle {
    /// Number of the classes that a caption can name, by their numbers or names; absent from a model
    /// that reads captions or embeddings.
    pub fn classes(&self) -> Option<usize> {
        let own = self.decoder.config().classes()?;
        Some(own.max(self.classifier.as_ref().map_or(0, |it| it.config().classes)))
    }

    /// The number of the class that a caption names: a number from 0, one of
    /// [`class_names`](Self::class_names), or a part of one between commas. `None` for no class, the
    /// empty caption.
    ///
    /// # Errors
    /// A class that there is not, a name of several, and no class where the decoder needs one.
    pub fn class_of(&self, caption: &str) -> Result<Option<usize>, InvalidSetting> {
        let (classes, name) = (self.classes().unwrap_or(0), caption.trim());
        let needs = self.decoder.config().classes().is_some_and(|classes| classes > 0);
        let refused =
            |expected| Err(InvalidSetting::new("class", format!("{caption:?}"), expected));
        if name.is_empty() && !needs {
            return Ok(None);
        }
        if classes == 0 {
            return refused("the empty one: this model draws things of one kind".into());
        }
        if let Ok(number) = name.parse::<usize>()
            && number < classes
        {
            return Ok(Some(number));
        }
        let is_name = |known: &str| known.trim().eq_ignore_ascii_case(name) && !name.is_empty();
        let is_of = |known: &String| is_name(known) || known.split(',').any(is_name);
        let found = self.class_names.iter().enumerate().filter(|(_, known)| is_of(known));
        match found.map(|(number, _)| number).collect::<Vec<_>>().as_slice() {
            [one] => Ok(Some(*one)),
            [] if self.class_names.is_empty() => {
                refused(format!("the number of a class, 0 to {}", classes - 1))
            }
            [] => refused(format!("the number of a class, 0 to {}, or its name", classes - 1)),
            several => refused(format!("one of the classes of this name, by number: {several:?}")),
        }
    }

    /// The classes that captions name: one each, or none at all.
    ///
    /// # Errors
    /// As [`class_of`](Self::class_of); a class beside none, since one call is guided or not.
    fn classes_of<S: AsRef<str>>(
        &self,
        captions: &[S],
    ) -> Result<Option<Vec<usize>>, InvalidSetting> {
        let classes = captions.iter().map(|caption| self.class_of(caption.as_ref()));
        let classes: Vec<Option<usize>> = classes.collect::<Result<_, _>>()?;
        let named = classes.iter().flatten().count();
        if named > 0 && named < classes.len() {
            let (found, expected) =
                ("some with a class, some without", "a class in each, or in none");
            return Err(InvalidSetting::new("captions", found, expected));
        }
        Ok(classes.into_iter().collect::<Option<Vec<usize>>>().filter(|it| !it.is_empty()))
    }

    /// Refuses guidance away from a null condition, if there is none.
    pub(crate) fn check_guidance(&self, decoder: &StageSettings) -> Result<(), InvalidSetting> {
        if self.classes().is_none() || !decoder.is_guided() {
            return Ok(());
        }
        let expected = "1: the decoder of this model has no null condition; a classifier guides it";
        Err(InvalidSetting::new("decoder guidance", decoder.guidance_scale, expected))
    }
}

impl GenerateOptions {
    /// How strongly a model's classifier guides, if it does: a scale of 0 is none.
    pub(crate) fn classifier(&self, bundle: &Bundle) -> Option<f64> {
        let own = bundle.classifier.as_ref().map(|it| it.config().scale);
        self.classifier_scale.or(own).filter(|scale| *scale != 0.0)
    }

    /// Refuses guidance by a classifier that there is not.
    pub(crate) fn check_classifier(&self, bundle: &Bundle) -> Result<(), Error> {
        let Some(scale) = self.classifier(bundle) else { return Ok(()) };
        check_guidance_scale(SCALE, scale)?;
        match bundle.classifier {
            Some(_) => Ok(()),
            None => Err(missing(&bundle.origin, StageId::Classifier)),
        }
    }
}

/// How messages name it.
const SCALE: &str = "classifier scale";

/// Refuses guidance by a classifier in a build without gradients.
fn check_gradients(scale: f64) -> Result<(), InvalidSetting> {
    if cfg!(feature = "autodiff") {
        return Ok(());
    }
    let expected = "0: this build has no gradients; build with `--features autodiff`";
    Err(InvalidSetting::new(SCALE, scale, expected))
}

impl Settings {
    /// Checks captions of a model of classes; without a class, no classifier guides.
    pub(crate) fn for_subjects<S: AsRef<str>>(
        mut self,
        captions: &[S],
        options: &GenerateOptions,
        bundle: &Bundle,
    ) -> Result<Self, InvalidSetting> {
        let Some(own) = bundle.decoder.config().classes() else { return Ok(self) };
        match (bundle.classes_of(captions)?, self.classifier_scale) {
            (Some(_), Some(scale)) => check_gradients(scale)?,
            (Some(_), None) if own == 0 => {
                let expected = "the empty one: this model draws things of one kind, and no classifier \
                                leads it";
                let found = format!("{:?}", captions[0].as_ref());
                return Err(InvalidSetting::new("class", found, expected));
            }
            (None, Some(scale)) if options.classifier_scale.is_some() => {
                let expected = "absent: there is no class that it could lead to";
                return Err(InvalidSetting::new(SCALE, scale, expected));
            }
            (None, _) => self.classifier_scale = None,
            (Some(_), None) => {}
        }
        Ok(self)
    }
}

impl<'a> Run<'a> {
    /// What a decoder reads that reads no image embedding, `n` pictures of each: captions (GLIDE), or
    /// the classes that they name (ADM).
    ///
    /// # Errors
    /// No caption; weights that cannot be read; a caption that names no class, of a model of classes.
    pub fn condition_of<S: AsRef<str>>(
        &mut self,
        captions: &[S],
        n: usize,
    ) -> Result<Condition, Error> {
        if self.bundle.decoder.config().classes().is_none() {
            return Ok(Condition::of_caption(self.encode(captions)?.repeat_rows(n)));
        }
        if captions.is_empty() {
            return Err(InvalidSetting::new("captions", 0, "at least 1").into());
        }
        let rows = |class| std::iter::repeat_n(class, n);
        Ok(match self.bundle.classes_of(captions)? {
            Some(classes) => Condition::of_classes(classes.into_iter().flat_map(rows).collect()),
            None => Condition::nothing(captions.len() * n),
        })
    }

    /// Refuses a condition of classes that the decoder does not know, or without them where it does.
    pub(crate) fn check_classes(&self, condition: &Condition) -> Result<(), InvalidSetting> {
        let Some(known) = self.bundle.classes() else { return Ok(()) };
        let rows = self.seeds.len();
        let refused = |found: String, expected: String| {
            Err(InvalidSetting::new("classes of the condition", found, expected))
        };
        let needs = self.bundle.decoder.config().classes().is_some_and(|own| own > 0);
        match &condition.classes {
            None if needs => refused("absent".into(), "one for each picture".into()),
            Some(classes) if classes.len() != rows => {
                refused(classes.len().to_string(), format!("{rows}, one for each seed"))
            }
            Some(classes) => match classes.iter().find(|class| **class >= known) {
                Some(class) => refused(class.to_string(), format!("less than {known}")),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Lets the classifier guide a bound decoder to the classes, if it does.
    pub(crate) fn guided_by_classifier(
        &self,
        bound: Bound<'a, DecoderConfig, 4>,
    ) -> Result<Bound<'a, DecoderConfig, 4>, Error> {
        let (Some(scale), Some(classes)) = (self.classifier_scale, &self.classes) else {
            return Ok(bound);
        };
        check_gradients(scale)?;
        let Some(slot) = &self.bundle.classifier else {
            return Err(missing(&self.bundle.origin, StageId::Classifier));
        };
        #[cfg(feature = "autodiff")]
        return gradient::steer(bound, (slot.network(self.placement)?.0, classes.clone()), scale);
        #[cfg(not(feature = "autodiff"))]
        {
            let _ = (classes, slot);
            Ok(bound)
        }
    }
}

#[cfg(feature = "autodiff")]
mod gradient {
    use burn::module::Module;
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Tensor, TensorData};
    use unclip_core::{Reading, Score, Scored, Step};
    use unclip_decoder::{Classifier, DecoderConfig};

    use crate::{Bound, Error};

    /// How probable a classifier says the classes are (Dhariwal & Nichol 2021, section 4).
    struct OfClasses {
        classifier: Classifier,
        classes: Vec<usize>,
    }

    impl Score<4> for OfClasses {
        fn score(&self, x_t: Tensor<4>, step: &Step) -> Tensor<1> {
            let ([rows, ..], device) = (x_t.dims(), x_t.device());
            let timesteps = Tensor::full([rows], step.timestep as f32, &device);
            let log_probabilities = log_softmax(self.classifier.forward(x_t, timesteps), 1);
            let n = log_probabilities.dims()[1];
            let mut chosen = vec![0.0f32; rows * n];
            self.classes.iter().enumerate().for_each(|(row, class)| chosen[row * n + class] = 1.0);
            let chosen = Tensor::<2>::from_data(TensorData::new(chosen, [rows, n]), &device);
            (log_probabilities * chosen).sum_dim(1).reshape([rows])
        }
    }

    pub(super) fn steer<'a>(
        mut bound: Bound<'a, DecoderConfig, 4>,
        (classifier, classes): (Classifier, Vec<usize>),
        scale: f64,
    ) -> Result<Bound<'a, DecoderConfig, 4>, Error> {
        let score: Box<dyn Score<4>> =
            Box::new(OfClasses { classifier: classifier.train(), classes });
        let (inner, scores) = (bound.denoiser, vec![(score, scale)]);
        bound.denoiser = Box::new(Scored { inner, scores, reading: Reading::Noisy });
        Ok(bound)
    }
}
