"""optax's Adam and RMSprop in one jitted step, which may write over the parameters and the state."""

import os

import peer

args = peer.options(["jit"])
os.environ["JAX_PLATFORMS"] = args.device

import jax  # noqa: E402
import optax  # noqa: E402

if args.rule == "adam":
    optimizer = optax.adam(1e-3, b1=0.9, b2=0.999, eps=1e-8)
elif args.rule == "rmsprop":
    optimizer = optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False)
else:
    peer.no_rule(f"no rule {args.rule}")

params, grads = [], []
for t, length in enumerate(args.lengths):
    p, g = peer.start(t, length)
    params.append(jax.device_put(p))
    grads.append(jax.device_put(g))
state = optimizer.init(params)


def update(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


compiled = jax.jit(update, donate_argnums=(0, 1))


def step():
    global params, state
    params, state = compiled(params, state, grads)


peer.serve(
    args,
    "optax",
    f"{optax.__version__}, jax {jax.__version__}",
    peer.cpu(args.threads) if args.device == "cpu" else jax.devices()[0].device_kind,
    step,
    lambda: jax.block_until_ready((params, state)),
    lambda t, i: params[t][i],
)
