// Elements of 16 bits to those of 32.

override SOURCES_F16: bool = false;

@group(0) @binding(0) var<storage, read> sources: array<u32>;
@group(0) @binding(1) var<storage, read_write> targets: array<u32>;

fn move_one(source: u32, to: u32) {
    targets[to] = bitcast<u32>(widened(sources[source / 2u], source, SOURCES_F16));
}
