// The step of one lane, where its numbers may be rounded by chance: step.wgsl, and which element that is.

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
}
