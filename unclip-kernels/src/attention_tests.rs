//! Attention and its gradients against their definitions in double precision.

use super::super::attention::attention;
use super::super::test_util::{assert_close, random};
use super::*;

/// The weights `[batch, heads, seq_q, seq_k]`, `y` and the gradients of `q`, `k`, `v`, from
/// the formulas.
fn naive(
    s: AttentionShape,
    [q, k, v]: [&[f32]; 3],
    mask: Option<Mask<'_>>,
    dy: &[f32],
) -> [Vec<f64>; 4] {
    let (mut y, mut dq) = (vec![0.0; q.len()], vec![0.0; q.len()]);
    let (mut dk, mut dv) = (vec![0.0; k.len()], vec![0.0; k.len()]);
    let at = |x: &[f32], i: usize| f64::from(x[i]);
    let factor = 1.0 / (s.d_head as f64).sqrt();
    for n in 0..s.batch {
        for h in 0..s.heads {
            for i in 0..s.seq_q {
                let of_q = (n * s.seq_q + i) * s.width() + h * s.d_head;
                let of_k = |j: usize| (n * s.seq_k + j) * s.width() + h * s.d_head;
                let hidden = |j: usize| {
                    mask.is_some_and(|m| {
                        let row = n % m.batch * m.seq_q + i % m.seq_q;
                        m.hidden[row * s.seq_k + j]
                    })
                };
                let dot = |a: &[f32], b: &[f32], j: usize| -> f64 {
                    (0..s.d_head).map(|c| at(a, of_q + c) * at(b, of_k(j) + c)).sum()
                };
                let none = (0..s.seq_k).all(hidden);
                let mut p: Vec<f64> = (0..s.seq_k)
                    .map(|j| match (none, hidden(j)) {
                        (true, _) => 0.0,
                        (_, true) => f64::NEG_INFINITY,
                        _ => dot(q, k, j) * factor,
                    })
                    .collect();
                let max = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                p.iter_mut().for_each(|p| *p = (*p - max).exp());
                let sum: f64 = p.iter().sum();
                p.iter_mut().for_each(|p| *p /= sum);
                let dp: Vec<f64> = (0..s.seq_k).map(|j| dot(dy, v, j)).collect();
                let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for j in 0..s.seq_k {
                    let ds = if none { 0.0 } else { p[j] * (dp[j] - mean) * factor };
                    for c in 0..s.d_head {
                        y[of_q + c] += p[j] * at(v, of_k(j) + c);
                        dq[of_q + c] += ds * at(k, of_k(j) + c);
                        dk[of_k(j) + c] += ds * at(q, of_q + c);
                        dv[of_k(j) + c] += p[j] * at(dy, of_q + c);
                    }
                }
            }
        }
    }
    [y, dq, dk, dv]
}

/// Batch, heads, queries, keys and channels per head that hit every edge of the blocking.
fn shapes() -> Vec<AttentionShape> {
    [
        [1, 1, 1, 1, 1],
        [2, 3, 1, 5, 3],
        [1, 2, 3, 1, 7],
        [3, 2, 4, 17, 16],
        [2, 4, 28, 28, 24],
        [1, 3, 81, 81, 24],
        [5, 2, 64, 92, 32],
        [1, 2, 65, 145, 64],
        [1, 1, 7, 33, 130],
        [2, 1, 129, 257, 5],
        [1, 2, 70, 400, 33],
        [1, 1, 9, 1105, 64],
        [1, 2, 300, 50, 20],
        [17, 2, 40, 70, 24],
        [1, 1, 70, 4500, 3],
        [1, 1, 3, 2049, 17],
        [0, 2, 3, 4, 5],
        [2, 2, 0, 4, 5],
        [2, 2, 3, 0, 5],
    ]
    .map(|[batch, heads, seq_q, seq_k, d_head]| AttentionShape {
        batch,
        heads,
        seq_q,
        seq_k,
        d_head,
    })
    .to_vec()
}

/// Inputs of one shape; scores are spread widely enough for the softmax to matter.
fn inputs(s: AttentionShape) -> [Vec<f32>; 4] {
    let spread = |x: Vec<f32>| x.iter().map(|v| v * 3.0).collect();
    [
        spread(random(s.query_len(), 1)),
        spread(random(s.key_len(), 2)),
        random(s.key_len(), 3),
        random(s.query_len(), 4),
    ]
}

/// Masks of every kind of broadcast, with rows that hide everything.
fn masks(s: AttentionShape) -> Vec<(Vec<bool>, usize, usize)> {
    let mut masks = Vec::new();
    for batch in [1, s.batch] {
        for seq_q in [1, s.seq_q] {
            let noise = random(batch * seq_q * s.seq_k, 5);
            let mut hidden: Vec<bool> = noise.iter().map(|v| *v > 0.2).collect();
            if let Some(row) = hidden.chunks_mut(s.seq_k.max(1)).nth(batch * seq_q / 2) {
                row.fill(true);
            }
            masks.push((hidden, batch, seq_q));
        }
    }
    let causal = (0..s.seq_q * s.seq_k).map(|i| i % s.seq_k > i / s.seq_k).collect();
    masks.push((causal, 1, s.seq_q));
    masks
}

fn forward(s: AttentionShape, [q, k, v]: [&[f32]; 3], mask: Option<Mask<'_>>) -> Vec<f32> {
    let mut y = vec![f32::NAN; q.len()];
    attention(s, q, k, v, mask, &mut y);
    y
}

fn backward(
    s: AttentionShape,
    [q, k, v]: [&[f32]; 3],
    mask: Option<Mask<'_>>,
    dy: &[f32],
) -> [Vec<f32>; 3] {
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![f32::NAN; x.len()]);
    attention_backward(s, [q, k, v], mask, dy, [&mut dq, &mut dk, &mut dv]);
    [dq, dk, dv]
}

fn check(s: AttentionShape, mask: Option<Mask<'_>>) {
    let [q, k, v, dy] = inputs(s);
    let [y, dq, dk, dv] = naive(s, [&q, &k, &v], mask, &dy);
    let what = format!("{s:?}, mask {:?}", mask.map(|m| (m.batch, m.seq_q)));
    assert_close(&forward(s, [&q, &k, &v], mask), &y, 3e-6, &format!("y {what}"));
    let got = backward(s, [&q, &k, &v], mask, &dy);
    for (got, want, name) in [(&got[0], dq, "dq"), (&got[1], dk, "dk"), (&got[2], dv, "dv")] {
        assert_close(got, &want, 1e-5, &format!("{name} {what}"));
    }
}

#[test]
fn both_passes_match_the_definition() {
    for s in shapes() {
        check(s, None);
    }
}

#[test]
fn masks_of_every_broadcast_match_the_definition() {
    for s in shapes() {
        for (hidden, batch, seq_q) in masks(s) {
            check(s, Some(Mask { hidden: &hidden, batch, seq_q }));
        }
    }
}

#[test]
fn hidden_keys_have_no_influence_at_all() {
    let s = AttentionShape { batch: 1, heads: 2, seq_q: 5, seq_k: 300, d_head: 8 };
    let hidden: Vec<bool> = (0..s.seq_k).map(|j| j % 3 == 1).collect();
    let mask = Some(Mask { hidden: &hidden, batch: 1, seq_q: 1 });
    let [q, mut k, mut v, dy] = inputs(s);
    let y = forward(s, [&q, &k, &v], mask);
    let [dq, dk, dv] = backward(s, [&q, &k, &v], mask, &dy);
    for (i, (k, v)) in k.iter_mut().zip(&mut v).enumerate() {
        if hidden[i / s.width()] {
            assert_eq!((dk[i], dv[i]), (0.0, 0.0));
            (*k, *v) = (*k * -50.0, 1e30);
        }
    }
    assert_eq!(y, forward(s, [&q, &k, &v], mask));
    assert_eq!(dq, backward(s, [&q, &k, &v], mask, &dy)[0]);
}

#[test]
fn a_query_that_sees_nothing_gets_the_mean() {
    for seq_k in [3, 92, 700, 5000] {
        let s = AttentionShape { batch: 1, heads: 1, seq_q: 2, seq_k, d_head: 4 };
        let [q, k, v, dy] = inputs(s);
        let mut hidden = vec![true; 2 * seq_k];
        hidden[seq_k..].fill(false);
        let mask = Some(Mask { hidden: &hidden, batch: 1, seq_q: 2 });
        let y = forward(s, [&q, &k, &v], mask);
        let mean: Vec<f64> = (0..4)
            .map(|c| v.iter().skip(c).step_by(4).map(|v| f64::from(*v)).sum::<f64>())
            .map(|sum| sum / seq_k as f64)
            .collect();
        assert_close(&y[..4], &mean, 1e-5, "mean");
        let [dq, _, _] = backward(s, [&q, &k, &v], mask, &dy);
        assert_eq!(dq[..4], [0.0; 4]);
    }
}

#[test]
fn extreme_scores_stay_finite() {
    let s = AttentionShape { batch: 1, heads: 1, seq_q: 3, seq_k: 600, d_head: 16 };
    let [q, k, v, dy] = inputs(s);
    let (q, k): (Vec<f32>, Vec<f32>) =
        (q.iter().map(|v| v * 1e4).collect(), k.iter().map(|v| v * 1e4).collect());
    assert!(forward(s, [&q, &k, &v], None).iter().all(|v| v.abs() <= 1.0));
    let grads = backward(s, [&q, &k, &v], None, &dy);
    assert!(grads.iter().flatten().all(|v| v.is_finite()));
}

#[test]
fn not_a_number_spoils_its_own_row_only() {
    let s = AttentionShape { batch: 1, heads: 1, seq_q: 3, seq_k: 50, d_head: 16 };
    let [mut q, k, v, _] = inputs(s);
    q[16] = f32::NAN;
    let y = forward(s, [&q, &k, &v], None);
    assert!((0..48).all(|i| y[i].is_nan() == (i / 16 == 1)), "{y:?}");
}

/// Buffers are kept between calls, and what they hold must not matter.
#[test]
fn not_a_number_does_not_outlive_its_call() {
    for s in shapes() {
        let [q, k, v, dy] = inputs(s).map(|x| vec![f32::NAN; x.len()]);
        forward(s, [&q, &k, &v], None);
        backward(s, [&q, &k, &v], None, &dy);
        check(s, None);
    }
}

/// Whatever else is computed and by how many threads, the bits of a sequence are the same.
#[test]
fn results_depend_on_neither_batch_nor_threads() {
    for [batch, heads, seq_q, seq_k, d_head] in
        [[17, 2, 64, 92, 32], [2, 4, 81, 81, 24], [2, 2, 600, 700, 64]]
    {
        let s = AttentionShape { batch, heads, seq_q, seq_k, d_head };
        let [q, k, v, dy] = inputs(s);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = forward(s, [&q, &k, &v], None);
                (y, backward(s, [&q, &k, &v], None, &dy))
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(7));
        let last = AttentionShape { batch: 1, ..s };
        let [q, k, v, dy] = [&q, &k, &v, &dy].map(|x| &x[x.len() / batch * (batch - 1)..]);
        let y = forward(last, [q, k, v], None);
        let end = |x: &Vec<f32>| x[x.len() / batch * (batch - 1)..].to_vec();
        assert_eq!(y, end(&one.0));
        assert_eq!(backward(last, [q, k, v], None, dy), [0, 1, 2].map(|i| end(&one.1[i])));
    }
}
