"""Which tests concern which module, and which changes can make no difference: what `faults.py` is told."""

WIRING = "algorithms_keys algorithms_acting matching_wiring"
OFF_POLICY = f"defaults algorithms_keys actor_critic matching_recipes {WIRING} algorithms_protocol"
ON_POLICY = "defaults algorithms_keys algorithms_acting proximal on_policy_checks algorithms_protocol"
PROGRAMS = "defaults train_wiring train_arguments train_metrics train_tracing actor_critic proximal data"
MATCHING = (
    "losses_matching losses_transforms losses_batch losses_proposals losses_compose bad_functions checks"
)
# What every module is concerned by, last.
EVERYWHERE = "select bad_numbers bad_pairs bad_shapes"
# What concerns a module, as `tests/test_NAME.py` in the order in which they run; the first pattern that matches counts.
TESTS = {
    "losses/_gae.py": "defaults losses_formulas spread proximal checks",
    "losses/value.py": "defaults losses_formulas spread losses_compose proximal checks",
    "losses/surrogates.py": "defaults losses_formulas losses_ratios losses_denoising proximal checks",
    "losses/ratios.py": "defaults losses_ratios losses_denoising losses_formulas proximal checks",
    "losses/_entropy.py": "defaults losses_mixture losses_ratios losses_compose networks_policies proximal checks",
    "losses/change.py": "proximal",
    "losses/denoising.py": "defaults losses_denoising on_policy_checks proximal",
    "losses/invertible.py": "defaults samplers_coupled proximal",
    "losses/categorical.py": "modes_discovery algorithms_ddiffpg",
    "losses/distillation.py": "losses_compose checks",
    "losses/pathwise.py": "defaults losses_batch losses_compose checks",
    "losses/compose.py": "losses_compose losses_formulas checks",
    "losses/_tilt.py": "defaults losses_tilt bad_functions matching_wiring",
    "losses/truncated.py": "losses_proposals train_truncation losses_matching",
    "losses/mean_flow.py": "defaults mean_flow matching_recipes",
    "losses/times.py": "defaults losses_matching mean_flow proximal checks",
    "losses/gaussian_value.py": "defaults losses_gaussian_value algorithms_dacer",
    "losses/mixture.py": "defaults losses_mixture algorithms_dacer",
    "losses/consistency.py": "defaults consistency algorithms_cpql",
    "losses/directions.py": "defaults algorithms_dacer",
    "losses/*": f"defaults {MATCHING} losses_tilt matching_shares matching_laws matching_recipes {WIRING} "
    "algorithms_protocol",
    "samplers/_coupled.py": "defaults samplers_coupled proximal checks",
    "samplers/mmse.py": "defaults samplers_mmse",
    "samplers/_mean_flow.py": "defaults mean_flow matching_recipes",
    "samplers/likelihood.py": "defaults samplers_likelihood samplers_selection checks",
    "samplers/_consistency.py": "defaults consistency",
    "samplers/_noise_free.py": "algorithms_dipo",
    "samplers/_best_of.py": "defaults samplers_selection samplers_gradients matching_wiring checks",
    "samplers/batch.py": "samplers_gradients samplers_selection",
    "samplers/_differentiated.py": "defaults samplers_backprop",
    "samplers/_path.py": "defaults samplers_path",
    "samplers/_chain.py": "samplers_backprop samplers_gradients samplers_orders losses_denoising",
    "samplers/*": "defaults samplers_orders samplers_selection samplers_moments samplers_box samplers_gradients "
    "samplers_likelihood losses_denoising checks",
    "dpolicy/algorithms/bc.py": f"defaults algorithms_acting algorithms_keys {PROGRAMS} algorithms_protocol",
    "dpolicy/algorithms/sac.py": f"{OFF_POLICY} checks",
    "dpolicy/algorithms/ddpg.py": f"defaults algorithms_td3 {OFF_POLICY}",
    "dpolicy/algorithms/crossq.py": f"defaults algorithms_crossq {OFF_POLICY}",
    "dpolicy/blocks/_joint.py": "defaults algorithms_crossq algorithms_dime algorithms_flash_sac algorithms_protocol",
    "dpolicy/blocks/_atoms.py": "defaults algorithms_dime modes_discovery",
    "dpolicy/algorithms/dsac_d.py": f"defaults algorithms_dsac_d {OFF_POLICY}",
    "dpolicy/blocks/_diffusion_critics.py": "defaults algorithms_dsac_d algorithms_protocol",
    "dpolicy/algorithms/dime.py": f"defaults algorithms_dime {OFF_POLICY}",
    "dpolicy/blocks/_path_policy.py": "defaults algorithms_dime samplers_path",
    "dpolicy/fields/_control.py": "defaults algorithms_dime fields_embeddings bad_numbers",
    "dpolicy/networks/_batch_renorm.py": "defaults networks_batch_renorm algorithms_crossq",
    "dpolicy/algorithms/bro.py": f"defaults algorithms_bro {OFF_POLICY}",
    "dpolicy/algorithms/fast_sac.py": f"defaults algorithms_fast_sac {OFF_POLICY}",
    "dpolicy/algorithms/flash_sac.py": f"defaults algorithms_flash_sac {OFF_POLICY}",
    "dpolicy/networks/_flash_net.py": "defaults algorithms_flash_sac algorithms_protocol",
    "dpolicy/train/holding.py": "train_holding",
    "dpolicy/algorithms/fast_td3.py": f"defaults algorithms_fast_td3 {OFF_POLICY}",
    "dpolicy/algorithms/dsac_t.py": f"defaults algorithms_dsac_t losses_gaussian_value {OFF_POLICY}",
    "dpolicy/algorithms/td3.py": f"defaults algorithms_td3 {OFF_POLICY}",
    "dpolicy/blocks/_deterministic.py": "defaults algorithms_td3 algorithms_acting algorithms_protocol",
    "dpolicy/algorithms/dacer*.py": f"defaults algorithms_dacer {OFF_POLICY}",
    "dpolicy/blocks/_deviations.py": "losses_gaussian_value algorithms_dsac_t critic_kinds",
    "dpolicy/blocks/_bootstrap.py": f"blocks_critics critic_kinds losses_gaussian_value {OFF_POLICY}",
    "dpolicy/networks/_ensemble.py": "critic_subsets blocks_critics",
    "dpolicy/blocks/_entropic_noise.py": "defaults algorithms_dacer algorithms_acting algorithms_protocol",
    "dpolicy/blocks/_pathwise.py": "defaults algorithms_dacer algorithms_acting algorithms_protocol",
    "dpolicy/algorithms/cpql.py": f"defaults algorithms_cpql {OFF_POLICY}",
    "dpolicy/algorithms/consistency_ac.py": f"defaults algorithms_consistency_ac {OFF_POLICY}",
    "dpolicy/blocks/_consistency.py": "defaults consistency algorithms_cpql algorithms_consistency_ac "
    "algorithms_protocol",
    "dpolicy/fields/_consistency.py": "defaults consistency algorithms_cpql",
    "dpolicy/algorithms/dipo.py": f"defaults algorithms_dipo {OFF_POLICY} audit",
    "dpolicy/algorithms/ddiffpg.py": "defaults algorithms_acting algorithms_keys algorithms_ddiffpg modes_discovery "
    "algorithms_protocol",
    "dpolicy/algorithms/ppo.py": f"{ON_POLICY} networks_policies",
    "dpolicy/algorithms/dppo.py": f"{ON_POLICY} losses_denoising algorithms_dppo",
    "dpolicy/algorithms/fpo*.py": f"{ON_POLICY} losses_ratios",
    "dpolicy/algorithms/genpo.py": f"{ON_POLICY} samplers_coupled",
    "dpolicy/algorithms/dp_cppo.py": ON_POLICY,
    "dpolicy/algorithms/*": f"{OFF_POLICY} bad_functions audit",
    "dpolicy/learning/_stages.py": f"learning_makers learning_passes {OFF_POLICY} audit",
    "dpolicy/learning/_makers.py": f"learning_makers spread {OFF_POLICY}",
    "dpolicy/_rarely.py": "learning_rarely learning_passes",
    "dpolicy/learning/_combinators.py": f"learning_passes learning_rarely learning_makers {ON_POLICY}",
    "dpolicy/optimisers/_rates.py": f"optimisers_rates actor_critic {ON_POLICY}",
    "dpolicy/blocks/_critics.py": f"{OFF_POLICY} blocks_critics critic_subsets algorithms_td3 algorithms_dipo audit",
    "dpolicy/blocks/_actor_critic.py": f"{OFF_POLICY} algorithms_dipo audit",
    "dpolicy/blocks/_mirror.py": OFF_POLICY,
    "dpolicy/blocks/_noisy_best.py": f"learning_makers {OFF_POLICY}",
    "dpolicy/blocks/_field_policy.py": f"{OFF_POLICY} algorithms_dipo fields_schedules",
    "dpolicy/optimisers/_ema.py": "optimisers_ema actor_critic checks",
    "dpolicy/optimisers/_learner.py": "defaults optimisers_learner train_guard actor_critic on_policy_checks proximal",
    "dpolicy/blocks/_advantages.py": "advantages spread proximal on_policy_checks",
    "dpolicy/learning/_minibatches.py": "minibatches on_policy_checks proximal",
    "dpolicy/blocks/_matched.py": "algorithms_acting algorithms_keys on_policy_checks proximal",
    "dpolicy/blocks/_denoising.py": f"{ON_POLICY} losses_denoising algorithms_dppo",
    "dpolicy/blocks/_proximal.py": ON_POLICY,
    "dpolicy/blocks/_coupled.py": f"{ON_POLICY} samplers_coupled",
    "dpolicy/blocks/_residual.py": ON_POLICY,
    "dpolicy/blocks/_pretrained.py": "algorithms_dppo on_policy_checks",
    "dpolicy/blocks/_ascent.py": "defaults algorithms_dipo algorithms_keys algorithms_protocol",
    "dpolicy/modes/_groups.py": "modes_discovery algorithms_ddiffpg",
    "dpolicy/modes/_critics.py": "defaults algorithms_ddiffpg",
    "dpolicy/modes/_modal.py": "defaults algorithms_ddiffpg algorithms_acting",
    "dpolicy/modes/_novelty.py": "defaults modes_discovery algorithms_ddiffpg",
    "dpolicy/_batch.py": "losses_batch losses_matching losses_compose checks",
    "dpolicy/_settings.py": "settings recipe cli_flags bad_numbers checks algorithms_protocol",
    "dpolicy/_spread.py": "spread losses_formulas proximal on_policy_checks",
    "dpolicy/_select.py": "select losses_formulas losses_matching",
    "dpolicy/train/replay.py": "actor_critic algorithms_dipo algorithms_ddiffpg modes_discovery checks",
    "dpolicy/train/_off_policy.py": f"{PROGRAMS} algorithms_dipo algorithms_ddiffpg train_probes",
    "dpolicy/train/_on_policy.py": f"{PROGRAMS} train_truncation train_probes",
    "dpolicy/train/_offline.py": f"{PROGRAMS} train_memory",
    "dpolicy/train/normalise.py": f"train_normalise train_holding spread {PROGRAMS}",
    "dpolicy/train/evaluate.py": PROGRAMS,
    "dpolicy/train/program.py": f"train_guard {PROGRAMS}",
}
# What survived and can make no difference: the fault, by module, operator and changed line, and why.
CLAMPED = "JAX holds an index beyond an axis of one at its end"
EQUIVALENT: dict[str, str] = {
    "losses/pathwise.py NumberReplacer: x, t = jax.lax.stop_gradient((match.x[0], match.t[0])) -> "
    "x, t = jax.lax.stop_gradient((match.x[ 1], match.t[0]))": CLAMPED,
    "dpolicy/modes/_groups.py NumberReplacer: rank = jnp.take_along_axis(jnp.cumsum(member, axis=0), stratum[:, None], "
    "axis=1)[:, 0] -> rank = jnp.take_along_axis(jnp.cumsum(member, axis=0), stratum[:, None], axis=1)[:, 1]": CLAMPED,
    "losses/truncated.py NumberReplacer: low = jnp.where(sign < 0, -upper, lower) -> "
    "low = jnp.where(sign < 1, -upper, lower)": "the sign is -1 or 1",
    "samplers/_diffrax.py NumberReplacer: points = solution.ys if all_points else jax.tree.map(lambda leaf: leaf[0], "
    "solution.ys) -> points = solution.ys if all_points else jax.tree.map(lambda leaf: leaf[ -1], solution.ys)": (
        "there is one point only"
    ),
    "samplers/_diffrax.py DropKeyword: throw=False, -> ": "a fixed number of steps cannot fail",
}
