"""What the fixtures of GLIDE and ADM keep of pictures, which are large."""

#: Of which pixels and rows one is kept.
THINNED = {"decoder.image": 2, "upsampler.0.image": 8}


def thinned(trace):
    """The trace with a part of its pictures."""
    strides = {key: THINNED.get(key) for key in trace}
    return {key: value[..., ::stride, ::stride] if (stride := strides[key]) else value for key, value in trace.items()}
