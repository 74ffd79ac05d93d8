"""A cloned field whose samples an energy guides."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from dpolicy._settings import Count, NonNegative, Sizes, checked, one_of
from dpolicy._types import Critic, Key, Number
from dpolicy.blocks._critics import CriticValues, acting, guide
from dpolicy.blocks._field_policy import FieldPolicy, ends_in_box, field_policy
from dpolicy.fields import EMBEDDINGS, AbstractEmbedding, AbstractField, Energy, EnergyNetwork, Guided, guided
from dpolicy.learning import Acting, Parts
from dpolicy.networks import Activation
from dpolicy.recipe import composed, tunable


class GuidedPolicy(NamedTuple):
    """A behaviour and an energy: the policy of the field whose score has `scale` times the energy's gradient added.

    Attributes:
        behaviour: The field that is guided, its schedule and its sampler.
        make: `(key, spec) -> energy network`, called `energy(x, t, obs)`.
        scale: Of the gradient; at 1 the exact energy log E[w | x_t] gives the behaviour times w, at 0 the behaviour.
    """

    behaviour: FieldPolicy
    make: Callable[[Key, Any], EnergyNetwork]
    scale: Number

    def field(self, behaviour: AbstractField, energy: Energy) -> Guided:
        """The guided field, which every sampler takes."""
        return guided(behaviour, energy, self.scale)

    @checked
    def acts(
        self,
        candidates: Count = 1,
        *,
        select: CriticValues | Callable[[Parts], Critic] = "target_min",
        temperature: Number | None = None,
        behaviour: str = "behaviour",
        energy: str = "energy",
    ) -> Acting:
        """An acting slot: one guided sample, or the best of several, or a draw of softmax(q / temperature) from them.

        Args:
            candidates: Samples among which one is chosen; `FieldPolicy.best`.
            select: The critic that chooses, see `guide`, or `parts -> critic`; not asked for one candidate.
            temperature: Of the draw; None for the best.
            behaviour: The part that is guided.
            energy: The part that guides.
        """
        policy = self.behaviour.best(candidates, temperature=temperature)

        def act(parts: Parts) -> Any:
            q = select(parts) if callable(select) else guide(parts, select)
            return acting(policy, self.field(getattr(parts, behaviour), getattr(parts, energy)), q)

        return act


@tunable("guidance_scale", "energy_hidden", "energy_activation", "energy_embedding")
@composed(
    field_policy,
    schedule="linear",
    sampler="dpm_solver",
    sampler_steps=15,
    hidden=(256, 256, 256),
    activation="silu",
    embedding="fixed_fourier",
)
def guided_policy(
    make_field: Callable[..., FieldPolicy],
    *,
    guidance_scale: NonNegative = 1.0,
    energy_hidden: Sizes = (256, 256, 256, 256),
    energy_activation: Activation = "silu",
    energy_embedding: Annotated[str, one_of(EMBEDDINGS)]
    | Callable[[Key], AbstractEmbedding] = "fixed_fourier",
) -> GuidedPolicy:
    r"""The field of a behaviour policy, guided by a network of its own (QGPO, arXiv 2304.12824, eq. 10).

    $$ \nabla \log \pi_t(x) = \nabla \log \nu_t(x) + c\, \nabla_x f(x, t, s). $$

    With c = 1 and f = log E[exp(Q / lambda) | x_t = x] this is the field of nu exp(Q / lambda). Another c is no other
    temperature, but for a Gaussian nu and linear Q. Samples are clipped to the box where they end, not on the way.

    Args:
        guidance_scale: c.
        energy_hidden: Widths of the energy's network.
        energy_activation: Of it.
        energy_embedding: Of the time in it; see `embedding`.
    """
    behaviour = ends_in_box(make_field(clip=None))

    def make(key: Key, spec: Any) -> EnergyNetwork:
        layers: dict[str, Any] = {"hidden": energy_hidden, "activation": energy_activation}
        return EnergyNetwork(spec.obs_size, spec.action_size, embedding=energy_embedding, **layers, key=key)

    return GuidedPolicy(behaviour, make, guidance_scale)
