// Words: elements of 32 bits, some of fewer bits that begin and end with words, or scales of blocks.

@group(0) @binding(0) var<storage, read> sources: array<u32>;
@group(0) @binding(1) var<storage, read_write> targets: array<u32>;

fn move_one(source: u32, to: u32) {
    targets[to] = sources[source];
}
