// Planes of 8 bits: what is new of them waits until all of a block is there, since its scale is the largest magnitude.
// A workgroup holds whole blocks.

override PLANES_BLOCKS: u32 = 0u;
override PLANES_UNSIGNED: u32 = 0u;
// Where the scales lie: as the place of a plane behind all.
override SCALES: u32 = 0u;
override Q8_GUARDED: bool = false;

// The most planes of 8 bits: only a rule's own slots are.
const MOST_CODED = 3u;

var<private> coming: array<Lane, MOST_CODED>;
var<private> came: bool;
var<private> here: At;
var<workgroup> most: array<vec3<u32>, WORKGROUP>;

fn put_off(at: At, plane: u32, s: Lane) {
    coming[before(PLANES_BLOCKS, plane)] = s;
    came = true;
    here = at;
}

// The same turns for all: see chain/control.wgsl. Nobody encodes a block before all have read what it was.
fn finish(local: u32) {
    most[local] = vec3<u32>(magnitude(coming[0]), magnitude(coming[1]), magnitude(coming[2]));
    storageBarrier();
    workgroupBarrier();
    for (var half = BLOCK / 2u; half > 0u; half /= 2u) {
        if local % BLOCK < half {
            most[local] = max(most[local], most[local + half]);
        }
        workgroupBarrier();
    }
    let scales = most[local - local % BLOCK];
    let second = PLANES_BLOCKS & (PLANES_BLOCKS - 1u);
    let third = second & (second - 1u);
    if came {
        settle_block(local, PLANES_BLOCKS, coming[0], scales.x);
        if second != 0u {
            settle_block(local, second, coming[1], scales.y);
        }
        if third != 0u {
            settle_block(local, third, coming[2], scales.z);
        }
    }
}

// Of the first of these planes.
fn settle_block(local: u32, planes: u32, s: Lane, scale: u32) {
    let plane = firstTrailingBit(planes);
    store_codes(here, plane, s, bitcast<f32>(scale), is_of(PLANES_UNSIGNED, plane));
    if local % BLOCK == 0u {
        store_scale(here, plane, scale);
    }
}
