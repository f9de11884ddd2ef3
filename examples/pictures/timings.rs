//! What each stage cost, as JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use unclip::{StageCost, StageId};

use crate::console::AnyError;
use crate::memory;

/// Writes the costs of all calls, by stage.
pub(crate) fn write(path: &Path, costs: &[StageCost]) -> Result<(), AnyError> {
    let mut stages = BTreeMap::<StageId, Vec<&StageCost>>::new();
    for cost in costs {
        stages.entry(cost.stage).or_default().push(cost);
    }
    let stages = stages.into_iter().map(|(stage, costs)| {
        let mut calls: Vec<f64> =
            costs.iter().flat_map(|cost| &cost.calls).map(|call| call.as_secs_f64()).collect();
        calls.sort_by(f64::total_cmp);
        let sum = |part: fn(&StageCost) -> Duration| -> f64 {
            costs.iter().map(|cost| part(cost).as_secs_f64()).sum()
        };
        let (loading, binding) = (sum(|cost| cost.loading), sum(|cost| cost.binding));
        let report = json!({
            "seconds": loading + binding + calls.iter().sum::<f64>(),
            "seconds_loading": loading,
            "seconds_binding": binding,
            "median_call_seconds": calls.get(calls.len() / 2),
            "calls": calls.len(),
            "rows": costs[0].rows,
            "parameters": costs[0].parameters,
        });
        (stage.to_string(), report)
    });
    let report = json!({
        "stages": stages.collect::<serde_json::Map<_, _>>(),
        "peak_resident_bytes": memory::peak_resident_bytes(),
    });
    let text = format!("{report:#}\n");
    unclip::unclip_nn::checkpoint::write_whole(path, text.as_bytes())?;
    Ok(())
}
