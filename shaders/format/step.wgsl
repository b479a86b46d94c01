// The step of one lane in any format: chance must know which element a lane is, and blocks are encoded when all of one
// is there.

@compute @workgroup_size(WORKGROUP)
fn step(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = number(group);
    let first = place(index);
    let i = lane(index, local);
    if has(index, i, first.w) {
        begin(index, i);
        let at = At(first.x + i, first.y + i, first.z + i);
        if admitted(at) {
            update(hyper(), at);
        }
    }
    finish(local);
}
