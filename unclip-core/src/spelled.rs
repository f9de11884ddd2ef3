//! Values that configurations and recipes keep as people spell them.

/// Lets serde keep a type by its spelling, with `#[serde(try_from = "String", into = "String")]`:
/// what it displays, and what is parsed.
macro_rules! spelled {
    ($T:ty) => {
        impl From<$T> for String {
            fn from(value: $T) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $T {
            type Error = InvalidSetting;

            fn try_from(spelling: String) -> Result<Self, InvalidSetting> {
                spelling.parse()
            }
        }
    };
}
