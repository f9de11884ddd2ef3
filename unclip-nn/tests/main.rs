//! Integration tests of this crate.
use burn::tensor::{Device, Tensor, Distribution};
#[test]
fn dbg() {
    let d = Device::flex().autodiff();
    let x = Tensor::<4>::random([2,8,16,16], Distribution::Normal(0.,1.), &d).require_grad();
    println!("{:?} {} {}", x.dtype(), x.device()==Device::flex(), x.device().is_autodiff());
    println!("{}", cfg!(feature="autodiff"));
    let y = unclip_nn::ops::silu(x.clone());
    let g = y.sum().backward();
    println!("{}", x.grad(&g).unwrap().sum());
}
