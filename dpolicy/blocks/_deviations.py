"""What bounds the samples that Gaussian critics are fitted to (DSAC-T, arXiv 2310.05858)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpolicy._types import Key, Number
from dpolicy.learning import Parts, Seen, Stage
from dpolicy.losses import CriticError, gaussian_error


class Deviations(NamedTuple):
    """b, each critic's running mean of its deviation over batches, which the first batch starts.

    Attributes:
        rate: Share of a batch in it.
        form: Of the critics' loss; see `dpolicy.losses.gaussian_value_loss`.
    """

    rate: Number
    form: str

    def error(self, s: Seen) -> CriticError:
        """The error of the critics, by b as it is now."""
        return gaussian_error(s.now.deviations, form=self.form)

    def beside(self, stage: Stage) -> Stage:
        """The stage of the critics, which owns b too, as the part "deviations", and moves it before its step."""

        def start(key: Key, spec: Any, parts: Parts) -> dict[str, Any]:
            part = stage.start(key, spec, parts)
            return {"": part, "deviations": jnp.zeros(part.model.size)}

        def step(part: dict[str, Any], seen: Seen, key: Key) -> Any:
            critic, old = part[""], part["deviations"]
            std = jax.vmap(critic.model)(seen.batch.obs, seen.batch.action).std
            fresh = jnp.mean(std, axis=0).astype(old.dtype)
            # A softplus is never zero: that is the start alone.
            new = jnp.where(old > 0, (1 - self.rate) * old + self.rate * fresh, fresh)
            seen = seen._replace(now=Parts(seen.now, deviations=new))
            critic, added, metrics = stage.step(critic, seen, key)
            return {"": critic, "deviations": new}, added, {**metrics, "deviation": jnp.mean(new)}

        return stage._replace(start=start, step=step, owns=("", "deviations"))
