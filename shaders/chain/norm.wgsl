// Sums of squares that neither overflow nor vanish, and the largest magnitude.
//
// Squares of gradients from 1e-20 to 1e19 do not fit one f32, so there are three sums: of the small ones scaled up, of
// those between, and of the large ones scaled down, all by powers of two. The fourth number is that of sums.wgsl, how
// many are not finite, or of moves.wgsl, the largest magnitude.

const LOW = 0x1p-40f;
const HIGH = 0x1p+40f;
const UP = 0x1p+64f;
const DOWN = 0x1p-84f;

// Each step halves the parts; the shape depends on nothing but WORKGROUP, so the sum has the same bits each time.
fn joined(local: u32, own: vec4<f32>) -> vec4<f32> {
    parts[local] = own;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if local < half {
            parts[local] = join(parts[local], parts[local + half]);
        }
        workgroupBarrier();
    }
    return parts[0];
}
