"""Noise of exploration that is held for several steps: keys that acting draws by, one for each environment."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dpolicy import _checks
from dpolicy._types import Key, Keys, Number


class HeldKeys(eqx.Module):
    r"""The key that exploration draws by in each environment, and for how many steps more it does (FlashSAC).

    Each key is held for k steps, then another one is drawn, and another k:

    $$ P(k) \propto k^{-\mathrm{exponent}}, \qquad k = 1 \dots \mathrm{most}. $$

    Whatever a policy draws while a key is held it draws by that key again: the noise of a Gaussian, what is added to a
    deterministic action, the first noise of a flow or a diffusion and that of its chain. The action still follows the
    observation, and an episode's end changes nothing. Source: arXiv 2604.04539, its code, where the noise of every
    environment is its own, but one k is that of all: here each has its own.

    Attributes:
        keys: The keys, one for each environment.
        left: Steps that they are held for still; 0 where the next step draws anew.
    """

    keys: Keys
    left: Int[Array, "*seeds env"]

    @staticmethod
    def start(key: Key, num: int) -> "HeldKeys":
        """Nothing held yet: the first step draws anew, and these keys are never drawn by."""
        return HeldKeys(jax.random.split(key, num), jnp.zeros(num, jnp.int32))

    def renewed(self, keys: Keys, most: int, exponent: Number) -> "HeldKeys":
        """Those of the next step, in place of what is spent by new ones made of `keys`, one for each environment."""
        law = -exponent * jnp.log(jnp.arange(1, most + 1))

        def one(held: Key, left: Array, key: Key) -> tuple[Key, Array]:
            fresh, length_key = jax.random.split(key)
            length = 1 + jax.random.categorical(length_key, law).astype(jnp.int32)
            spent = left == 0
            return jnp.where(spent, fresh, held), jnp.where(spent, length, left) - 1

        return HeldKeys(*jax.vmap(one)(self.keys, self.left, keys))


def check_holding(noise_repeats: int, noise_exponent: Number | None) -> None:
    """Raise `ValueError` for a longest hold or an exponent out of its range, and for one where nothing is held."""
    _checks.integer("noise_repeats", noise_repeats)
    if noise_exponent is not None:
        _checks.non_negative("noise_exponent", noise_exponent)
        if noise_repeats == 1:
            raise ValueError(f"noise_exponent needs noise_repeats above 1, got {noise_exponent!r} without.")
