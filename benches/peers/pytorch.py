"""torch.optim's Adam and RMSprop: its fused, foreach and for-loop implementations, and a compiled step."""

import peer

args = peer.options(["fused", "foreach", "for-loop", "compile"])

import torch  # noqa: E402

torch.set_num_threads(args.threads)
cuda = args.device == "cuda"
device = torch.device(args.device)

params = []
for t, length in enumerate(args.lengths):
    p, g = peer.start(t, length)
    p = torch.from_numpy(p).to(device).requires_grad_()
    p.grad = torch.from_numpy(g).to(device)
    params.append(p)

how = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
    # The compiler needs the step count where the parameters are; it fuses what foreach lists.
    "compile": {"foreach": True, "capturable": cuda},
}[args.variant]
if args.rule == "adam":
    optimizer = torch.optim.Adam(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, **how)
elif args.rule == "rmsprop":
    if args.variant == "fused":
        peer.no_rule("torch.optim.RMSprop has no fused implementation")
    optimizer = torch.optim.RMSprop(params, lr=1e-2, alpha=0.99, eps=1e-8, **how)
else:
    peer.no_rule(f"no rule {args.rule}")

step = torch.compile(optimizer.step) if args.variant == "compile" else optimizer.step

peer.serve(
    args,
    f"pytorch-{args.variant}",
    torch.__version__,
    torch.cuda.get_device_name() if cuda else peer.cpu(args.threads),
    step,
    torch.cuda.synchronize if cuda else lambda: None,
    lambda t, i: params[t].detach()[i],
)
