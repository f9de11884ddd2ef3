//! Devices by name.

use burn::tensor::Device;

use crate::Error;

/// The device with a name such as `flex`, `cuda` or `vulkan:1`.
///
/// Names match the features that provide them: `flex` (the CPU), `wgpu`, `vulkan`, `metal`, `cuda`,
/// `rocm`. A number picks among several of a kind; `wgpu:cpu` and `vulkan:cpu` pick a software
/// implementation. `cpu` means `flex`; `gpu` is the first device of the program's first backend
/// that finds one; `auto` is that, or else the CPU.
///
/// # Example
/// ```
/// assert!(unclip::device("flex").is_ok());
/// let error = unclip::device("abacus").unwrap_err().to_string();
/// assert_eq!(error, "device \"abacus\": expected cpu, gpu, auto, flex, wgpu, vulkan, \
///     metal, cuda or rocm");
/// ```
///
/// # Errors
/// The name is unknown, its feature is off, or there is no such device.
pub fn device(name: &str) -> Result<Device, Error> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index)),
        None => (name, None),
    };
    let refuse = |reason: String| Error::Device { name: name.into(), reason };
    match (kind, index) {
        ("cpu", None) => return device("flex"),
        ("gpu", None) => return first_gpu(),
        ("auto", None) => return first_gpu().or_else(|_| device("flex")),
        ("cpu" | "gpu" | "auto", Some(_)) => {
            return Err(refuse(format!("{kind} takes no index: name a backend, as in wgpu:1")));
        }
        _ => {}
    }
    // without any backend nothing asks for it
    let _ = index;
    match kind {
        #[cfg(feature = "flex")]
        "flex" => match index {
            None | Some("0") => Ok(Device::flex()),
            Some(_) => Err(refuse("there is one CPU, flex".into())),
        },
        #[cfg(feature = "wgpu")]
        "wgpu" => graphics(index, burn::tensor::DeviceType::Wgpu, Device::wgpu).map_err(refuse),
        #[cfg(feature = "vulkan")]
        "vulkan" => {
            graphics(index, burn::tensor::DeviceType::Vulkan, Device::vulkan).map_err(refuse)
        }
        #[cfg(feature = "metal")]
        "metal" => graphics(index, burn::tensor::DeviceType::Metal, Device::metal).map_err(refuse),
        #[cfg(feature = "cuda")]
        "cuda" => numbered(index, burn::tensor::DeviceType::Cuda).map_err(refuse),
        #[cfg(feature = "rocm")]
        "rocm" => numbered(index, burn::tensor::DeviceType::Rocm).map_err(refuse),
        #[allow(unreachable_patterns, reason = "a name is reached when its feature is off")]
        "flex" | "wgpu" | "vulkan" | "metal" | "cuda" | "rocm" => Err(refuse(format!(
            "this program was built without it; build with `--features {kind}`"
        ))),
        _ => Err(refuse("expected cpu, gpu, auto, flex, wgpu, vulkan, metal, cuda or rocm".into())),
    }
}

/// The first device of the first GPU backend that has one, the fastest kind of backend first.
fn first_gpu() -> Result<Device, Error> {
    let found =
        ["cuda", "rocm", "metal", "vulkan", "wgpu"].into_iter().find_map(|kind| device(kind).ok());
    found.ok_or_else(|| Error::Device {
        name: "gpu".into(),
        reason: "none was found by the backends of this program; each is a feature: \
                 cuda, rocm, metal, vulkan, wgpu"
            .into(),
    })
}

/// The device at an index of those that are there.
#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
fn numbered(index: Option<&str>, kind: burn::tensor::DeviceType) -> Result<Device, String> {
    let index: usize = match index.unwrap_or("0").parse() {
        Ok(index) => index,
        Err(_) => return Err("the index after the colon is not a number".into()),
    };
    // a driver that is missing makes the backend panic rather than list nothing
    let found = std::panic::catch_unwind(|| Device::enumerate(kind))
        .map_err(|_| "its driver cannot be loaded".to_string())?;
    let count = found.len();
    let missing = || format!("{count} such devices were found, index {index} is not among them");
    found.into_iter().nth(index).ok_or_else(missing)
}

/// Like [`numbered`], with a name for software implementations, which are never listed.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
fn graphics(
    index: Option<&str>,
    kind: burn::tensor::DeviceType,
    new: impl Fn(burn::tensor::DeviceKind) -> Device,
) -> Result<Device, String> {
    match index {
        Some("cpu") => Ok(new(burn::tensor::DeviceKind::Cpu)),
        _ => numbered(index, kind),
    }
}
