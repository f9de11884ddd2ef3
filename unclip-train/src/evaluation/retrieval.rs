//! Whether captions find their pictures, and pictures their captions.

use burn::tensor::Tensor;
use unclip_core::normalize;

use super::held_out::Evaluation;

/// How often the right one is the first of all, or among the first five: of the pictures for a caption, and of
/// the captions for a picture.
pub(crate) fn retrieval(evaluation: Evaluation, text: Tensor<2>, image: Tensor<2>) -> Evaluation {
    let [n, _] = image.dims();
    let scores: Vec<f32> =
        normalize(image).matmul(normalize(text).transpose()).into_data().iter::<f32>().collect();
    let at = |image: usize, text: usize| scores[image * n + text];
    let better_texts = |own: usize| (0..n).filter(|it| at(own, *it) > at(own, own)).count();
    let better_images = |own: usize| (0..n).filter(|it| at(*it, own) > at(own, own)).count();
    let share = |rank: &dyn Fn(usize) -> usize, within: usize| {
        (0..n).filter(|own| rank(*own) < within).count() as f64 / n as f64
    };
    evaluation
        .with("caption_of_picture_top_1", share(&better_texts, 1), n)
        .with("caption_of_picture_top_5", share(&better_texts, 5), n)
        .with("picture_of_caption_top_1", share(&better_images, 1), n)
        .with("picture_of_caption_top_5", share(&better_images, 5), n)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_right_one_has_a_place_among_all() {
        let device = Device::flex();
        let image = Tensor::<2>::eye(8, &device);
        let found = retrieval(Evaluation::default(), image.clone(), image.clone());
        assert_eq!(found.get("caption_of_picture_top_1"), Some(1.0));
        // every caption is that of the next picture
        let next =
            Tensor::cat(vec![image.clone().narrow(0, 1, 7), image.clone().narrow(0, 0, 1)], 0);
        let found = retrieval(Evaluation::default(), next, image);
        assert_eq!(found.get("picture_of_caption_top_1"), Some(0.0));
        assert_eq!(found.get("picture_of_caption_top_5"), Some(1.0));
    }
}
