//! A file, and settings from the command line, over a preset.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::{Table, Value};
use unclip_core::InvalidSetting;

use super::fields::Plan;
use super::presets::Preset;

/// The name of the field that says what a file is laid over.
const PRESET: &str = "preset";

/// What stands there in a file that says everything itself.
const WHOLE: &str = "none";

/// Fields that say where things are, how often they are saved, and what is left out.
const PLACES: [&str; 6] = [
    "run.out",
    "run.model",
    "run.device",
    "run.checkpoint_seconds",
    "run.keep_checkpoints",
    "data.max_bad",
];

impl Plan {
    /// The plan of a TOML file, with settings such as `prior.train.steps=20000` laid over it. A preset that is
    /// given stands in the place of the file's.
    ///
    /// # Errors
    /// Text that is no TOML; a preset that there is not; a field that there is not, or with another kind of
    /// value.
    pub fn of_toml(
        text: &str,
        preset: Option<Preset>,
        settings: &[String],
    ) -> Result<Self, InvalidSetting> {
        let refused = |error: &dyn std::fmt::Display| {
            // the place, and after the text there, what is wrong with it
            let error = error.to_string();
            let mut lines = error.lines().filter(|line| !line.trim().is_empty());
            let place = lines.next().unwrap_or_default();
            let wrong = lines.next_back().map_or(String::new(), |line| format!(": {line}"));
            let found = format!("no TOML ({place}{wrong})");
            InvalidSetting::new("configuration", found, "what docs/training.md describes")
        };
        let mut file: Table = text.parse().map_err(|error: toml::de::Error| refused(&error))?;
        let own = match file.remove(PRESET) {
            None => Some(Preset::default()),
            Some(Value::String(name)) if name == WHOLE => None,
            Some(Value::String(name)) => Some(name.parse()?),
            Some(other) => {
                let expected = "the name of a preset";
                return Err(InvalidSetting::new(PRESET, other.to_string(), expected));
            }
        };
        let mut all = match preset.or(own) {
            Some(preset) => Table::try_from(preset.plan()).map_err(|error| refused(&error))?,
            None => Table::new(),
        };
        own_clip(&file, settings, preset.or(own).is_none())?;
        lay(&mut all, file);
        for setting in settings {
            set(&mut all, setting)?;
        }
        Self::of_table(all)
    }

    fn of_table(all: Table) -> Result<Self, InvalidSetting> {
        Self::deserialize(Value::Table(all)).map_err(|error| {
            let found = format!("wrong ({})", error.to_string().trim_end().replace('\n', " "));
            InvalidSetting::new("configuration", found, "fields as docs/training.md describes them")
        })
    }

    /// All of it as TOML, which says so: it is laid over no preset when it is read.
    pub fn to_toml(&self) -> String {
        let says = "# everything is said here, and nothing laid underneath";
        format!(
            "{says}\n{PRESET} = \"{WHOLE}\"\n\n{}",
            toml::to_string_pretty(self).unwrap_or_default()
        )
    }

    /// What is other than in another plan: fields, with both values. Where things are is not compared.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let [own, before] = [self, before].map(|plan| {
            let mut fields = BTreeMap::new();
            if let Ok(table) = Table::try_from(plan) {
                flatten("", &Value::Table(table), &mut fields);
            }
            // what changes no weight
            fields.retain(|name, _| {
                !PLACES.contains(&name.as_str()) && !name.starts_with("evaluation.")
            });
            fields
        });
        let names: BTreeSet<&String> = own.keys().chain(before.keys()).collect();
        let of = |fields: &BTreeMap<String, String>, name| {
            fields.get(name).cloned().unwrap_or_else(|| "absent".into())
        };
        let changed = names.into_iter().filter(|name| own.get(*name) != before.get(*name));
        changed
            .map(|name| format!("{name} was {}, is {}", of(&before, name), of(&own, name)))
            .collect()
    }
}

/// Refuses sizes of a CLIP that is taken over: they are its own. A file that says everything has them.
fn own_clip(file: &Table, settings: &[String], says_all: bool) -> Result<(), InvalidSetting> {
    let clip = file.get("clip").and_then(Value::as_table);
    let is_taken = clip.is_some_and(|clip| clip.contains_key("from"))
        || settings.iter().any(|setting| setting.starts_with("clip.from="));
    let in_file = clip.filter(|_| !says_all).into_iter().flat_map(|clip| clip.keys());
    let in_file = in_file.map(|name| format!("clip.{name}"));
    let names = in_file.chain(settings.iter().map(|it| it.split('=').next().unwrap_or("").into()));
    let is_size = |name: &String| name.starts_with("clip.text") || name.starts_with("clip.image");
    match names.into_iter().find(is_size).filter(|_| is_taken) {
        None => Ok(()),
        Some(name) => {
            let expected = "absent beside clip.from, whose CLIP has sizes of its own";
            Err(InvalidSetting::new(name, "given", expected))
        }
    }
}

/// Every value by its path.
fn flatten(path: &str, value: &Value, fields: &mut BTreeMap<String, String>) {
    let below = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(name, it)| flatten(&below(name), it, fields))
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            list.iter().enumerate().for_each(|(n, it)| flatten(&below(&n.to_string()), it, fields));
        }
        value => drop(fields.insert(path.into(), value.to_string())),
    }
}

/// Lays tables over tables; anything else is replaced.
fn lay(below: &mut Table, above: Table) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Array(below)), Value::Array(above))
                if above.iter().all(Value::is_table) =>
            {
                lay_each(below, above);
            }
            // one of several things, not fields beside each other
            (Some(Value::Table(below)), Value::Table(above)) if name != "weighting" => {
                lay(below, above);
            }
            (_, value) => drop(below.insert(name, value)),
        }
    }
}

/// Lays the tables of a list over those at their places; there are as many as the upper list has.
fn lay_each(below: &mut Vec<Value>, above: Vec<Value>) {
    below.truncate(above.len());
    for (place, value) in above.into_iter().enumerate() {
        match (below.get_mut(place), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay(below, above),
            (Some(there), value) => *there = value,
            (None, value) => below.push(value),
        }
    }
}

/// Lays a single `name.of.field=value` over all. A value that is no TOML is a text.
fn set(all: &mut Table, setting: &str) -> Result<(), InvalidSetting> {
    let expected = "a field and its value, as in prior.train.steps=20000";
    let refused = || InvalidSetting::new("setting", format!("{setting:?}"), expected);
    let (path, text) = setting.split_once('=').ok_or_else(refused)?;
    let parsed: Option<Table> = format!("value = {text}").parse().ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| Value::String(text.into()));
    let (parents, last) = path.rsplit_once('.').ok_or_else(refused)?;
    let (first, parents) = parents.split_once('.').unwrap_or((parents, ""));
    let names = parents.split('.').filter(|name| !name.is_empty());
    let parent = names.fold(all.get_mut(first), |at, name| at.and_then(|at| inner(at, name)));
    match parent {
        Some(Value::Table(table)) => drop(table.insert(last.into(), value)),
        Some(at @ Value::Array(_)) => match inner(at, last) {
            Some(there) => *there = value,
            None => return Err(InvalidSetting::new("setting", path, "a field that there is")),
        },
        _ => return Err(InvalidSetting::new("setting", path, "a field that there is")),
    }
    Ok(())
}

/// What a table or a list has under a name or at a place.
fn inner<'a>(of: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    match of {
        Value::Table(table) => table.get_mut(name),
        Value::Array(list) => list.get_mut(name.parse::<usize>().ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use unclip_core::Weighting;

    use super::*;

    fn refused(text: &str, settings: &[&str], expected: &[&str]) {
        let settings: Vec<String> = settings.iter().map(|it| it.to_string()).collect();
        let error = Plan::of_toml(text, None, &settings).expect_err("it is wrong").to_string();
        for part in expected {
            assert!(error.contains(part), "{error} does not say {part}");
        }
    }

    #[test]
    fn a_file_is_laid_over_its_preset() {
        for preset in Preset::ALL {
            let plan =
                Plan::of_toml(&format!("preset = \"{preset}\""), None, &[]).expect("a preset");
            assert_eq!(plan, preset.plan());
            plan.validate().expect("a plan that can be trained");
            let again = Plan::of_toml(&plan.to_toml(), None, &[]).expect("it can be read again");
            assert_eq!(again, plan);
        }
        let file = "[data]\npaths = [\"a\"]\n[prior.train]\nsteps = 7\n[[upsampler]]\n[upsampler.train]\nbatch = 2\n";
        let settings = ["prior.train.batch=3", "run.out=some/where", "upsampler.0.crop=8"];
        let plan = Plan::of_toml(file, None, &settings.map(String::from)).expect("a plan");
        let prior = plan.prior.expect("a prior");
        assert_eq!((prior.train.steps, prior.train.batch), (7, 3));
        assert_eq!(plan.run.out, std::path::Path::new("some/where"));
        assert_eq!((plan.upsampler[0].crop, plan.upsampler[0].train.batch), (8, 2));
        assert_eq!(plan.upsampler[0].config, Preset::Tiny.plan().upsampler[0].config);
        assert_eq!(plan.decoder, Preset::Tiny.plan().decoder);
    }

    #[test]
    fn weightings_take_the_place_of_others() {
        for (text, expected) in [
            ("\"even\"", Weighting::Even),
            ("{ max_snr = 3.0 }", Weighting::MaxSnr(3.0)),
            ("{ min_snr = 5.0 }", Weighting::MinSnr(5.0)),
            ("{ p2 = { k = 1.0, gamma = 0.5 } }", Weighting::P2 { k: 1.0, gamma: 0.5 }),
        ] {
            let file = format!("[decoder]\nweighting = {text}\n");
            let plan = Plan::of_toml(&file, None, &[]).expect("a weighting");
            assert_eq!(plan.decoder.weighting, expected);
            let setting = format!("decoder.weighting={text}");
            let plan = Plan::of_toml("", None, &[setting]).expect("a weighting");
            assert_eq!(plan.decoder.weighting, expected);
        }
    }

    #[test]
    fn changes_are_named() {
        let settings = ["prior.train.steps=9", "run.out=there", "upsampler.0.crop=8"];
        let plan = Plan::of_toml("", None, &settings.map(String::from)).expect("a plan");
        let changed = plan.changes(&Preset::Tiny.plan());
        let expected = ["prior.train.steps was 8000, is 9", "upsampler.0.crop was 16, is 8"];
        assert_eq!(changed, expected);
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        refused("preset = 3", &[], &["preset is 3"]);
        refused("preset = \"x\"", &[], &["preset is \"x\"", "tiny, small, karlo, paper, shapes"]);
        refused("[data", &[], &["configuration is no TOML"]);
        refused("[dota]\npaths = []", &[], &["dota"]);
        refused("[prior.train]\nstep = 7", &[], &["step"]);
        refused("[decoder.config.unet]\nchanels = 7", &[], &["chanels"]);
        refused("[prior.train]\nsteps = \"many\"", &[], &["many"]);
        refused("", &["prior.train"], &["setting is \"prior.train\""]);
        refused("", &["steps=3"], &["setting is \"steps=3\""]);
        refused("", &["prior.train.step=3"], &["step"]);
        refused("", &["priar.train.steps=3"], &["setting is priar.train.steps"]);
        refused("", &["upsampler.3.crop=3"], &["setting is upsampler.3.crop"]);
        let sizes = &["clip.from=x", "clip.text.d_embedding=3"];
        refused("", sizes, &["clip.text.d_embedding is given, expected absent beside clip.from"]);
        refused("[clip]\nfrom = \"x\"\nimage.d_embedding = 3", &[], &["clip.image is given"]);
    }

    #[test]
    fn stages_that_do_not_go_together_are_refused() {
        let error = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|it| it.to_string()).collect();
            let plan = Plan::of_toml("", None, &settings).expect("fields that there are");
            plan.validate().expect_err("it cannot be trained").to_string()
        };
        let wide = error(&["clip.image.d_embedding=64"]);
        assert!(wide.contains("clip.image.d_embedding is 64, expected 128"), "{wide}");
        let long = error(&["prior.config.context_length=8"]);
        assert!(long.contains("prior.config.context_length is 8, expected 32"), "{long}");
        let crop = error(&["upsampler.0.crop=64"]);
        assert!(crop.contains("upsampler.0.crop is 64, expected 2 to 32"), "{crop}");
        let steps = error(&["prior.train.steps=0"]);
        assert!(steps.contains("prior.train.steps is 0, expected at least 1"), "{steps}");
        let rate = error(&["clip.train.learning_rate=nan"]);
        assert!(rate.contains("clip.train.learning_rate is NaN, expected"), "{rate}");
        let rate = error(&["clip.train.learning_rate=0"]);
        assert!(rate.contains("clip.train.learning_rate is 0, expected"), "{rate}");
        let alone = error(&["run.all_reduce=true", "run.device=cuda:0"]);
        assert!(alone.contains("run.all_reduce is true with cuda:0, expected false"), "{alone}");
        let mixed = error(&["run.all_reduce=true", "run.device=cuda:0,cpu"]);
        assert!(mixed.contains("several CUDA devices"), "{mixed}");
        let twice = error(&["run.all_reduce=true", "run.device=cuda:1,cuda:1"]);
        assert!(twice.contains("several CUDA devices"), "{twice}");
        let words = error(&["clip.text.vocab_size=5"]);
        assert!(words.contains("clip.text.vocab_size is 5, expected 0"), "{words}");
    }
}
