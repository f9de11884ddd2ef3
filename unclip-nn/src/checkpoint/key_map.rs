//! Names of tensors in files, where they differ from the names of fields.

/// An ordered list of renames, from the path of a field to the key in a file.
///
/// Each rename replaces every occurrence of its first part. burn's own names for the parameters of
/// norms are translated before the renames apply.
#[derive(Debug, Clone, Copy)]
pub struct KeyMap([&'static [(&'static str, &'static str)]; 2]);

impl KeyMap {
    /// No renames.
    pub const NONE: Self = Self([&[], &[]]);

    /// The given renames, in order.
    pub const fn new(renames: &'static [(&'static str, &'static str)]) -> Self {
        Self([renames, &[]])
    }

    /// These renames, and then those of a part.
    ///
    /// # Panics
    /// If there are those of a part already.
    #[must_use]
    pub const fn then(self, renames: &'static [(&'static str, &'static str)]) -> Self {
        assert!(self.0[1].is_empty(), "renames of one part");
        Self([self.0[0], renames])
    }

    /// The key in a file for the field at this path.
    pub fn key(&self, path: &[String]) -> String {
        let native = path
            .iter()
            .map(|part| match part.as_str() {
                "gamma" => "weight",
                "beta" => "bias",
                other => other,
            })
            .collect::<Vec<_>>()
            .join(".");
        self.0.iter().copied().flatten().fold(native, |key, (from, to)| key.replace(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(map: KeyMap, path: &str) -> String {
        map.key(&path.split('.').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn norms_speak_pytorch_and_renames_follow_in_order() {
        assert_eq!(key(KeyMap::NONE, "norm1.gamma"), "norm1.weight");
        let map = KeyMap::new(&[("attn.", "attn1."), ("attn1.to_out", "attn1.to_out.0")]);
        assert_eq!(key(map, "layers.3.attn.to_out.bias"), "layers.3.attn1.to_out.0.bias");
    }
}
