//! Names of the prior's tensors in files.

use unclip_nn::checkpoint::KeyMap;

/// diffusers' names, which the shared transformer block does not speak by itself.
pub const DIFFUSERS: KeyMap = KeyMap::new(&[
    ("transformer_blocks.layers.", "transformer_blocks."),
    (".attn.", ".attn1."),
    (".to_out.", ".to_out.0."),
    (".norm2.", ".norm3."),
    (".c_fc.", ".ff.net.0.proj."),
    (".c_proj.", ".ff.net.2."),
]);
