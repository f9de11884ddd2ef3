//! What the machine is, as far as it says.

use std::fs;

/// Lines for the head of a report.
pub(crate) fn lines() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let threads = rayon::current_num_threads();
    vec![
        ("processor", format!("{}{}", processor().unwrap_or_else(unknown), instructions())),
        ("cores", format!("{cores}, of which {threads} compute")),
        ("memory", memory().unwrap_or_else(unknown)),
        ("system", format!("{} {}{}", std::env::consts::OS, std::env::consts::ARCH, kernel())),
    ]
}

fn unknown() -> String {
    "unknown".into()
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|it| it.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().into())
}

/// The instruction sets that matter here.
fn instructions() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("FMA", std::arch::is_x86_feature_detected!("fma")),
            ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
            ("AVX-512", std::arch::is_x86_feature_detected!("avx512f")),
            ("VNNI", std::arch::is_x86_feature_detected!("avx512vnni")),
            ("BF16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ];
        let names = known.iter().filter(|(_, has)| *has).map(|(name, _)| format!(", {name}"));
        names.collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    String::new()
}

fn memory() -> Option<String> {
    let [all, free] = crate::memory::of_machine()?.map(|bytes| bytes as f64 / 1e9);
    Some(format!("{all:.1} GB, {free:.1} GB of it free"))
}

fn kernel() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease");
    text.map_or_else(|_| String::new(), |it| format!(", {}", it.trim()))
}
