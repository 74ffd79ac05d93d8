"""Whether a function uses a random key twice, by tracing it: nothing is compiled, nothing runs."""

import jax


def check(function, *arguments):
    """Trace `function` under JAX's own checker, which raises `KeyReuseError` for a key that is consumed twice.

    A sampler splits its key twice, for its start and for its noise, and takes another half each time. That is one
    split here, so that only a half that is used twice counts.
    """
    split, known = jax.random.split, {}

    def once(key, num=2):
        if (id(key), num) not in known:
            # The key is kept beside its parts: an identity is one only while what it is of lives.
            known[id(key), num] = key, split(key, num)
        return known[id(key), num][1]

    jax.random.split = once
    try:
        with jax.debug_key_reuse(True):
            return jax.eval_shape(jax.jit(function), *arguments)
    finally:
        jax.random.split = split
