// Nothing around the update: the gradient as it is, the parameter as the rule hands it back.

// The scalars of the step, those of the run's class.
@group(1) @binding(0) var<uniform> scalars: Hyper;

fn hyper() -> Hyper {
    return scalars;
}

fn admitted(at: At) -> bool {
    return true;
}

fn received(at: At, g0: Lane) -> Lane {
    return g0;
}

fn settled(at: At, p0: Lane) -> Lane {
    return p0;
}
