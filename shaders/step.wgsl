// The step of one lane: where the rule and what is around it meet.

@compute @workgroup_size(WORKGROUP)
fn step(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = number(group);
    let first = place(index);
    let i = lane(index, local);
    if has(index, i, first.w) {
        let at = At(first.x + i, first.y + i, first.z + i);
        if admitted(at) {
            update(hyper(), at);
        }
    }
}
