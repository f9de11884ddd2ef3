//! Progress, stage by stage.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};
use unclip::{Event, StageId};

/// One progress bar for each stage.
#[derive(Default)]
pub(crate) struct Bars {
    current: Option<(StageId, ProgressBar)>,
}

impl Bars {
    /// Shows a step, and lets the work go on.
    pub(crate) fn show(&mut self, event: &Event<'_>) -> ControlFlow<()> {
        if self.current.as_ref().is_none_or(|(stage, _)| *stage != event.stage) {
            self.finish();
            let style =
                ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {elapsed}");
            let bar = ProgressBar::new(event.total as u64).with_prefix(event.stage.to_string());
            let bar = style.into_iter().fold(bar, ProgressBar::with_style);
            self.current = Some((event.stage, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(event.index as u64 + 1);
        }
        ControlFlow::Continue(())
    }

    /// Ends the last bar.
    pub(crate) fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish();
        }
    }
}
