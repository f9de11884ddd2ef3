//! Watches over what a target does with an input: memory and time, beside panics.

#[path = "../../tests/hostile/targets.rs"]
pub mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a target may allocate beside a multiple of its input: a picture of a small file may be large, and
/// a vocabulary becomes tables.
const ALLOWANCE: usize = 256 << 20;
const MULTIPLE: usize = 64;

/// No input takes longer.
const SLOW: Duration = Duration::from_secs(1);

struct Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Runs a target on an input.
///
/// # Panics
/// If the target does, takes more than a second, or allocates more than 64 times the input and 256 MiB.
pub fn watch(target: &str, data: &[u8]) {
    let run = targets::by_name(target).expect("a target");
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let start = Instant::now();
    run(data);
    let (taken, most) = (start.elapsed(), MOST.load(Relaxed).saturating_sub(before));
    assert!(taken < SLOW, "{target}: {taken:?}");
    let may = ALLOWANCE + MULTIPLE * data.len();
    assert!(most <= may, "{target}: {most} bytes allocated for {} of input", data.len());
}
