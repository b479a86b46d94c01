// Nothing is rounded by chance: in the place of chance.wgsl.

const HAS_CHANCE = false;

fn begin(index: u32, i: u32) {}

fn chance_of(what: u32) -> Bits {
    return Bits(0u);
}
