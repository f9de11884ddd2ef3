//! The gradients of a step: their sum over the parts of a batch, their length, and shortening it.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

/// What a batch has to teach.
#[derive(Debug)]
pub struct Learned {
    /// The loss, `[1]`, without autodiff.
    pub loss: Tensor<1>,
    /// Its gradients.
    pub gradients: GradientsParams,
}

impl Learned {
    /// Goes back through a loss, `[1]`, to the weights of a model.
    pub fn of<M: Module>(model: &M, loss: Tensor<1>) -> Self {
        let value = loss.clone().inner();
        Self { loss: value, gradients: GradientsParams::from_grads(loss.backward(), model) }
    }

    /// Both together; the parameters are those of the model.
    #[must_use]
    pub(crate) fn plus<M: Module>(self, model: &M, other: Self) -> Self {
        let mut visitor = Sum { gradients: self.gradients, others: other.gradients };
        model.visit(&mut visitor);
        Self { loss: self.loss + other.loss, gradients: visitor.gradients }
    }

    /// The same, where the model and its weights are.
    #[must_use]
    pub(crate) fn on<M: Module>(self, device: &Device, model: &M) -> Self {
        let loss = self.loss.to_device(device);
        Self { loss, gradients: self.gradients.to_device(device, model) }
    }
}

struct Sum {
    gradients: GradientsParams,
    others: GradientsParams,
}

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(other) = self.others.remove::<D>(param.id) else { return };
        let sum = match self.gradients.remove::<D>(param.id) {
            Some(own) => own + other,
            None => other,
        };
        self.gradients.register(param.id, sum);
    }
}

/// The Euclidean norm over the gradients of all parameters, as a tensor of one value; nothing is
/// read back to the host.
pub(crate) fn global_norm<M: Module>(model: &M, gradients: &GradientsParams) -> Option<Tensor<1>> {
    let mut visitor = Squares { gradients, squares: Vec::new() };
    model.visit(&mut visitor);
    if visitor.squares.is_empty() {
        None
    } else {
        Some(Tensor::cat(visitor.squares, 0).sum().sqrt())
    }
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    squares: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.squares.push((gradient.clone() * gradient).sum());
        }
    }
}

/// Multiplies every gradient by `factor`.
pub(crate) fn scale<M: Module>(
    model: &M,
    gradients: GradientsParams,
    factor: f64,
) -> GradientsParams {
    let mut visitor = Scale { gradients, factor };
    model.visit(&mut visitor);
    visitor.gradients
}

struct Scale {
    gradients: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor);
        }
    }
}
