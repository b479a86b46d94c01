// Parameters of 16 bits, and what is kept of them besides: nothing, all of them in 32 bits, or what rounding has lost.

override PARAMS_F16: bool = false;
override HAS_MASTER: bool = false;
override HAS_KAHAN: bool = false;
override PLANE_MASTER_PARAM: u32 = 0u;
override PLANE_KAHAN_COMP: u32 = 0u;

fn load_params(at: At) -> Lane {
    if HAS_MASTER {
        let master = load_state(at, PLANE_MASTER_PARAM);
        let untaken = bitcast<Bits>(master) == Bits(0u);
        if any(untaken) {
            return select(master, load_copy(at), untaken);
        }
        return master;
    }
    if HAS_KAHAN {
        return load_copy(at) + load_state(at, PLANE_KAHAN_COMP);
    }
    return load_copy(at);
}

fn store_params(at: At, p: Lane) {
    let s = settled(at, p);
    if HAS_MASTER {
        store_state(at, PLANE_MASTER_PARAM, s);
    }
    if HAS_KAHAN {
        // Integers stand between: no compiler takes the difference for nothing.
        store_state(at, PLANE_KAHAN_COMP, lost(s, rounded(s, PARAMS_F16)));
    }
    store_copy(at, s, chance_of(0u), HAS_CHANCE);
}

// What is left of a number over what became of it; nothing where that is not finite.
fn lost(s: Lane, kept: Lane) -> Lane {
    let exponent = Bits(0x7f800000u);
    return select(s - kept, Lane(0.0), (bitcast<Bits>(kept) & exponent) == exponent);
}
