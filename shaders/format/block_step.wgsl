// The step of one lane, where state lies by blocks: what is new of them is encoded when all of a block is there.

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
