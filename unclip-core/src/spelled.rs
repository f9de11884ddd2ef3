//! Values that configurations and recipes store as text.

/// Lets serde store a type as text, with `#[serde(try_from = "String", into = "String")]`: what it
/// displays is what it is parsed from.
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
