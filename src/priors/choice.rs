//! Which prior draws, and its settings.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use unclip_core::{InvalidSetting, check_guidance_scale};

use crate::bundle::missing;
use crate::{Bundle, Error, Gallery, StageId, StageOptions, StageSettings};

/// A way from captions to image embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorKind {
    /// The diffusion prior.
    Diffusion,
    /// The autoregressive prior, code by code.
    Autoregressive,
    /// No network: the nearest of stored embeddings ([`Gallery`]), as in kNN-Diffusion (Sheynin et
    /// al. 2022).
    Retrieval,
}

impl PriorKind {
    const ALL: [Self; 3] = [Self::Diffusion, Self::Autoregressive, Self::Retrieval];
}

impl fmt::Display for PriorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Diffusion => "diffusion",
            Self::Autoregressive => "ar",
            Self::Retrieval => "retrieval",
        })
    }
}

impl FromStr for PriorKind {
    type Err = InvalidSetting;

    fn from_str(name: &str) -> Result<Self, InvalidSetting> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name).ok_or_else(|| {
            InvalidSetting::new("prior", format!("{name:?}"), "diffusion, ar or retrieval")
        })
    }
}

/// Settings of the prior that is used, with nothing left open.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum PriorSettings {
    /// Of the diffusion prior.
    Diffusion(StageSettings),
    /// Of the autoregressive prior.
    Autoregressive(ArSettings),
    /// Of stored embeddings.
    Retrieval(RetrievalSettings),
}

/// Settings of the autoregressive prior.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArSettings {
    /// Number of codes, which the model fixes.
    pub codes: usize,
    /// Guidance scale.
    pub guidance_scale: f64,
}

/// Settings of retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RetrievalSettings {
    /// Name of the file that the embeddings come from; empty if they come from none.
    pub gallery: String,
    /// Name of its contents ([`Gallery::fingerprint`]).
    #[serde(default)]
    pub fingerprint: String,
    /// How many of the nearest there are to draw from.
    pub neighbors: usize,
}

impl<'de> Deserialize<'de> for PriorSettings {
    /// Each prior has a field that the others lack; a derived implementation would try one after
    /// the other, and of settings that fit none say no more than that.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = serde_json::Value::deserialize(deserializer)?;
        let settings = match () {
            () if fields.get("codes").is_some() => {
                serde_json::from_value(fields).map(Self::Autoregressive)
            }
            () if fields.get("neighbors").is_some() => {
                serde_json::from_value(fields).map(Self::Retrieval)
            }
            () => serde_json::from_value(fields).map(Self::Diffusion),
        };
        settings.map_err(D::Error::custom)
    }
}

impl fmt::Display for PriorSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diffusion(settings) => {
                write!(f, "{} steps, guidance {}", settings.steps, settings.guidance_scale)
            }
            Self::Autoregressive(settings) => {
                write!(f, "{} codes, guidance {}", settings.codes, settings.guidance_scale)
            }
            Self::Retrieval(settings) => {
                write!(f, "the nearest {} of {:?}", settings.neighbors, settings.gallery)
            }
        }
    }
}

impl From<StageSettings> for PriorSettings {
    fn from(settings: StageSettings) -> Self {
        Self::Diffusion(settings)
    }
}

impl PriorSettings {
    /// Which prior they are of.
    pub fn kind(&self) -> PriorKind {
        match self {
            Self::Diffusion(_) => PriorKind::Diffusion,
            Self::Autoregressive(_) => PriorKind::Autoregressive,
            Self::Retrieval(_) => PriorKind::Retrieval,
        }
    }

    /// Steps for one embedding, of which each is seen by observers.
    pub fn steps(&self) -> usize {
        match self {
            Self::Diffusion(settings) => settings.steps,
            Self::Autoregressive(settings) => settings.codes,
            Self::Retrieval(_) => 0,
        }
    }

    /// The guidance scale; 1 where there is no guidance.
    pub fn guidance_scale(&self) -> f64 {
        match self {
            Self::Diffusion(settings) => settings.guidance_scale,
            Self::Autoregressive(settings) => settings.guidance_scale,
            Self::Retrieval(_) => 1.0,
        }
    }

    /// The stage that is used, if it is one.
    pub(crate) fn stage(&self) -> Option<StageId> {
        match self {
            Self::Diffusion(_) => Some(StageId::Prior),
            Self::Autoregressive(_) => Some(StageId::ArPrior),
            Self::Retrieval(_) => None,
        }
    }

    /// The options that ask for these settings.
    pub(crate) fn options(&self) -> StageOptions {
        match self {
            Self::Diffusion(settings) => settings.clone().into(),
            Self::Autoregressive(settings) => {
                StageOptions::default().with_guidance_scale(settings.guidance_scale)
            }
            Self::Retrieval(_) => StageOptions::default(),
        }
    }
}

/// What was asked of the prior.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PriorRequest<'a> {
    pub(crate) kind: Option<PriorKind>,
    pub(crate) options: &'a StageOptions,
    pub(crate) gallery: Option<&'a Gallery>,
    pub(crate) neighbors: Option<usize>,
    pub(crate) candidates: usize,
}

impl PriorRequest<'_> {
    /// Fills in what is open from the model. There is no prior if none was asked for and the model
    /// has none.
    pub(crate) fn resolve(&self, bundle: &Bundle) -> Result<Option<PriorSettings>, Error> {
        let default = match (&bundle.prior, &bundle.ar_prior) {
            (None, Some(_)) => PriorKind::Autoregressive,
            _ => PriorKind::Diffusion,
        };
        let kind = self.kind.unwrap_or(default);
        if kind != PriorKind::Retrieval {
            self.expect_no_retrieval()?;
        }
        match kind {
            PriorKind::Diffusion => {
                let Some(prior) = &bundle.prior else {
                    let is_asked_for = self.kind.is_some();
                    let absent = || missing(&bundle.origin, StageId::Prior);
                    return if is_asked_for { Err(absent()) } else { Ok(None) };
                };
                let settings = self.options.resolve(prior.id(), &prior.config().diffusion)?;
                bundle.check_prior_guidance(&settings)?;
                Ok(Some(PriorSettings::Diffusion(settings)))
            }
            PriorKind::Autoregressive => self.autoregressive(bundle).map(Some),
            PriorKind::Retrieval => Ok(Some(self.retrieval()?)),
        }
    }

    fn autoregressive(&self, bundle: &Bundle) -> Result<PriorSettings, Error> {
        let slot = bundle.ar_prior()?;
        let config = slot.config();
        let StageOptions { guidance_scale, .. } = *self.options;
        let others = StageOptions { guidance_scale: None, ..self.options.clone() };
        if others != StageOptions::default() {
            let expected = "absent: the autoregressive prior takes one step for each code, and \
                            has a guidance scale alone";
            return Err(InvalidSetting::new("prior options", others, expected).into());
        }
        let guidance_scale = guidance_scale.unwrap_or(config.guidance_scale);
        check_guidance_scale(&format!("{} guidance", slot.id()), guidance_scale)?;
        let settings = ArSettings { codes: config.n_codes, guidance_scale };
        Ok(PriorSettings::Autoregressive(settings))
    }

    fn retrieval(&self) -> Result<PriorSettings, InvalidSetting> {
        let Some(gallery) = self.gallery else {
            let expected = "stored embeddings, of which the nearest are taken";
            return Err(InvalidSetting::new("gallery for the prior retrieval", "absent", expected));
        };
        if *self.options != StageOptions::default() {
            let expected = "absent: retrieval has no steps and no guidance";
            return Err(InvalidSetting::new("prior options", self.options, expected));
        }
        if self.candidates > 1 {
            let expected = "1: retrieval already takes the nearest";
            return Err(InvalidSetting::new("candidates", self.candidates, expected));
        }
        let neighbors = self.neighbors.unwrap_or(1);
        if !(1..=gallery.len()).contains(&neighbors) {
            let expected = format!("1 to {}, which the gallery has", gallery.len());
            return Err(InvalidSetting::new("neighbors", neighbors, expected));
        }
        Ok(PriorSettings::Retrieval(RetrievalSettings {
            gallery: gallery.name().into(),
            fingerprint: gallery.fingerprint(),
            neighbors,
        }))
    }

    fn expect_no_retrieval(&self) -> Result<(), InvalidSetting> {
        let expected = "absent: only the prior retrieval uses it";
        if let Some(gallery) = self.gallery {
            return Err(InvalidSetting::new("gallery", gallery.name(), expected));
        }
        match self.neighbors {
            Some(neighbors) => Err(InvalidSetting::new("neighbors", neighbors, expected)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back() {
        for kind in PriorKind::ALL {
            assert_eq!(kind.to_string().parse::<PriorKind>().unwrap(), kind);
        }
        let error = "knn".parse::<PriorKind>().unwrap_err().to_string();
        assert_eq!(error, "prior is \"knn\", expected diffusion, ar or retrieval");
    }

    #[test]
    fn settings_of_every_kind_are_read_back() {
        let all = [
            PriorSettings::Autoregressive(ArSettings { codes: 40, guidance_scale: 1.5 }),
            PriorSettings::Retrieval(RetrievalSettings {
                gallery: "a".into(),
                fingerprint: "b".into(),
                neighbors: 3,
            }),
        ];
        for settings in all {
            let json = serde_json::to_string(&settings).unwrap();
            assert_eq!(serde_json::from_str::<PriorSettings>(&json).unwrap(), settings, "{json}");
        }
    }
}
