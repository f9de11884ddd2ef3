//! What pictures would take, without making them.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use unclip::unclip_core::Limit;
use unclip::unclip_nn::checkpoint::load_config;
use unclip::{Bundle, Estimate, GenerateOptions, Precision, Rate, Residency};

use crate::console::{AnyError, say};

/// Options of a dry run.
#[derive(Debug, Args)]
pub(crate) struct EstimateArguments {
    /// Make nothing: say what memory and how many calls it would take
    #[arg(long, conflicts_with_all = ["timings", "trace", "out"])]
    estimate: bool,
    /// With --estimate: what --timings wrote before on this machine, by which it also says how long
    #[arg(long, value_name = "FILE", requires = "estimate")]
    rate: Option<PathBuf>,
}

impl EstimateArguments {
    /// Whether that is all that is asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.estimate
    }

    /// Says what these calls would take: so many captions or pictures with such options each.
    pub(crate) fn say<'a>(
        &self,
        bundle: &Bundle,
        (precision, residency): (Precision, Residency),
        calls: impl Iterator<Item = (usize, &'a GenerateOptions)>,
    ) -> Result<(), AnyError> {
        let rates = self.rate.as_deref().map(rates).transpose()?;
        let all = calls.map(|(captions, options)| bundle.estimate(captions, options, precision));
        let all: Vec<Estimate> = all.collect::<Result<_, _>>()?;
        let most = all.iter().max_by_key(|estimate| estimate.memory(residency));
        say("stage\tparameters\tweights (MB)\twork (MB)\tpictures at once\tcalls");
        for (place, stage) in most.iter().flat_map(|it| it.stages.iter().enumerate()) {
            let calls: usize = all.iter().map(|it| it.stages[place].calls).sum();
            let mb = |bytes: u64| bytes.div_ceil(1_000_000);
            let (weights, work) = (mb(stage.weights), mb(stage.working));
            let (name, parameters, rows) = (stage.stage, stage.parameters, stage.at_once);
            say(format_args!("{name}\t{parameters}\t{weights}\t{work}\t{rows}\t{calls}"));
        }
        let memory = most.map_or(0, |estimate| estimate.memory(residency));
        say(format_args!("memory: about {:.2} GB beside the program", memory as f64 / 1e9));
        let limit = Limit::MemoryBytes;
        if memory > limit.value() {
            say(format_args!("which is more than there is: {limit}"));
        }
        if let Some(rates) = rates {
            match all.iter().map(|estimate| estimate.seconds(&rates)).sum::<Option<f64>>() {
                Some(seconds) => say(format_args!("time: about {seconds:.1} s")),
                None => {
                    return Err("--rate: expected the timings of a run of the same stages".into());
                }
            }
        }
        Ok(())
    }
}

/// The rates in a file that --timings wrote.
fn rates(path: &Path) -> Result<Vec<Rate>, AnyError> {
    let refused =
        |what: &str| format!("{}: {what}, expected what --timings writes", path.display());
    let file: Value = load_config(path)?;
    let stages = file["stages"].as_object().ok_or_else(|| refused("no stages"))?;
    let rate = |(name, stage): (&String, &Value)| -> Result<Rate, AnyError> {
        let number = |field: &str| {
            let found = stage[field].as_f64().filter(|it| it.is_finite() && *it >= 0.0);
            found.ok_or_else(|| refused(&format!("no {field} of {name}")))
        };
        let stage = name.parse().map_err(|_| refused(&format!("no stage {name}")))?;
        let (calls, rows) = (number("calls")?.max(1.0), number("rows")?.max(1.0));
        let (loading, binding) = (number("seconds_loading")?, number("seconds_binding")?);
        let each = (number("seconds")? - loading - binding).max(0.0) / (calls * rows);
        Ok(Rate { stage, loading, each })
    };
    stages.iter().map(rate).collect()
}
