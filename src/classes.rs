//! Models that draw things of classes (ADM): a class stands in the place of a caption.

use unclip_core::{InvalidSetting, check_guidance_scale};
use unclip_decoder::{Condition, DecoderConfig};

use crate::bundle::missing;
use crate::{Bound, Bundle, Error, GenerateOptions, Run, StageId, StageSettings};

impl Bundle {
    /// Number of the classes that a caption can name, by their numbers or names; absent from a model
    /// that reads captions or embeddings.
    pub fn classes(&self) -> Option<usize> {
        let own = self.decoder.config().classes()?;
        Some(own.max(self.classifier.as_ref().map_or(0, |it| it.config().classes)))
    }

    /// The number of the class that a caption names: a number from 0, or one of
    /// [`class_names`](Self::class_names). `None` for no class, the empty caption.
    ///
    /// # Errors
    /// A class that there is not, and no class where the decoder needs one.
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
        let is_of = |known: &String| {
            known.split(',').any(|it| it.trim().eq_ignore_ascii_case(name)) && !name.is_empty()
        };
        let by_name = || self.class_names.iter().position(is_of);
        match name.parse().ok().or_else(by_name) {
            Some(class) if class < classes => Ok(Some(class)),
            _ if self.class_names.is_empty() => {
                refused(format!("the number of a class, 0 to {}", classes - 1))
            }
            _ => refused(format!("the number of a class, 0 to {}, or its name", classes - 1)),
        }
    }

    /// Refuses captions that name no class, of a model of classes, and a class beside none: one call
    /// is guided or not.
    pub(crate) fn check_subjects<S: AsRef<str>>(
        &self,
        captions: &[S],
    ) -> Result<(), InvalidSetting> {
        if self.classes().is_none() {
            return Ok(());
        }
        let classes = captions.iter().map(|caption| self.class_of(caption.as_ref()));
        let classes: Vec<Option<usize>> = classes.collect::<Result<_, _>>()?;
        let first = classes.first().copied().flatten();
        match classes.iter().find(|it| it.is_some() != first.is_some()) {
            Some(_) => {
                let expected = "a class in each, or in none: one call is guided, or not";
                Err(InvalidSetting::new("captions", "some with a class, some without", expected))
            }
            None => Ok(()),
        }
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

    /// Refuses guidance by a classifier that there is not, or without gradients.
    pub(crate) fn check_classifier(&self, bundle: &Bundle) -> Result<(), Error> {
        const NAME: &str = "classifier scale";
        let Some(scale) = self.classifier(bundle) else { return Ok(()) };
        check_guidance_scale(NAME, scale)?;
        if bundle.classifier.is_none() {
            return Err(missing(&bundle.origin, StageId::Classifier));
        }
        if !cfg!(feature = "autodiff") {
            let expected = "0: this build has no gradients; build with `--features autodiff`";
            return Err(InvalidSetting::new(NAME, scale, expected).into());
        }
        Ok(())
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
        let Some(own) = self.bundle.decoder.config().classes() else {
            return Ok(Condition::of_caption(self.encode(captions)?.repeat_rows(n)));
        };
        self.bundle.check_subjects(captions)?;
        let classes = captions.iter().map(|caption| self.bundle.class_of(caption.as_ref()));
        // all of them, or none
        let all: Option<Vec<usize>> = classes.collect::<Result<_, _>>()?;
        let rows = |class| std::iter::repeat_n(class, n);
        self.classes = all.map(|all| all.into_iter().flat_map(rows).collect());
        Ok(match &self.classes {
            Some(classes) if own > 0 => Condition::of_classes(classes.clone()),
            _ => Condition::nothing(captions.len() * n),
        })
    }

    /// Lets the classifier guide a bound decoder to the classes, if it does.
    pub(crate) fn led_to_class(
        &self,
        bound: Bound<'a, DecoderConfig, 4>,
    ) -> Result<Bound<'a, DecoderConfig, 4>, Error> {
        let (Some(scale), Some(classes)) = (self.classifier_scale, &self.classes) else {
            return Ok(bound);
        };
        let Some(slot) = &self.bundle.classifier else { return Ok(bound) };
        #[cfg(feature = "autodiff")]
        return gradient::steer(bound, (slot.network(self.placement)?.0, classes.clone()), scale);
        #[cfg(not(feature = "autodiff"))]
        {
            // refused before
            let _ = (scale, classes, slot);
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
