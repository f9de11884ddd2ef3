//! In which order the items of a data set come.

/// A permutation of the numbers below `n` that follows from a seed and the number of the pass, without a
/// table: a Feistel network over the next power of four, walked until it lands below `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shuffle {
    n: u64,
    half: u32,
    keys: [u64; Self::ROUNDS],
}

impl Shuffle {
    const ROUNDS: usize = 6;

    /// The order of pass `epoch` over `n` items.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn new(n: u64, seed: u64, epoch: u64) -> Self {
        assert!(n > 0, "something to put in order");
        let bits = (u64::BITS - (n - 1).leading_zeros()).max(2);
        let mut state = mixed(seed) ^ mixed(epoch.wrapping_add(0x5bd1_e995));
        let keys = std::array::from_fn(|_| {
            state = mixed(state);
            state
        });
        Self { n, half: bits.div_ceil(2), keys }
    }

    /// The item at a place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn at(&self, place: u64) -> u64 {
        assert!(place < self.n, "place {place} of {}", self.n);
        let mut at = self.permuted(place);
        while at >= self.n {
            at = self.permuted(at);
        }
        at
    }

    fn permuted(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mixed(right ^ key) & mask));
        }
        (left << self.half) | right
    }
}

/// Which of `n` captions a sample takes.
pub(super) fn choice(n: usize, seed: u64, place: u64) -> usize {
    (mixed(mixed(seed) ^ place) % n as u64) as usize
}

/// A number from 0 to 1 for a sample; each `which` is another.
pub(super) fn lot(seed: u64, place: u64, which: u64) -> f64 {
    let bits = mixed(mixed(mixed(seed) ^ place).wrapping_add(which));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A number from 0 to 1 that follows from a name.
pub(super) fn lot_of(name: &str) -> f64 {
    let mixed_in = |hash: u64, byte: u8| mixed(hash ^ u64::from(byte));
    (name.bytes().fold(0, mixed_in) >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's mixing of a number.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_comes_once_in_a_pass() {
        for n in [1, 2, 3, 4, 5, 16, 17, 1000, 4097] {
            let order = |seed, epoch| -> Vec<u64> {
                let shuffle = Shuffle::new(n, seed, epoch);
                (0..n).map(|place| shuffle.at(place)).collect()
            };
            let first = order(7, 0);
            let mut sorted = first.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..n), "{n}");
            if n > 16 {
                assert_ne!(first, order(7, 1));
                assert_ne!(first, order(8, 0));
            }
        }
    }

    #[test]
    fn places_and_items_have_nothing_to_do_with_each_other() {
        let n = 10_000u64;
        let shuffle = Shuffle::new(n, 1, 2);
        let mean = (n - 1) as f64 / 2.0;
        let product = |place: u64| (place as f64 - mean) * (shuffle.at(place) as f64 - mean);
        let covariance = (0..n).map(product).sum::<f64>() / n as f64;
        let variance = (n * n) as f64 / 12.0;
        assert!((covariance / variance).abs() < 0.05, "{}", covariance / variance);
    }

    #[test]
    fn every_caption_has_its_turn() {
        let mut counts = [0; 3];
        (0..3000).for_each(|place| counts[choice(3, 5, place)] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
