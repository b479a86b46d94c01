// Chance that can be repeated: the shader half of src/format/noise.rs, where the functions are described.

fn mixed(x: u32) -> u32 {
    const FIFTEEN = 15u;
    const SIXTEEN = 16u;
    const FIRST = 0x7feb352du;
    const SECOND = 0x846ca68bu;
    // <mixed>
    let a = (x ^ (x >> SIXTEEN)) * FIRST;
    let b = (a ^ (a >> FIFTEEN)) * SECOND;
    let y = b ^ (b >> SIXTEEN);
    // </mixed>
    return y;
}

fn stream(step: u32, tensor: u32, what: u32) -> u32 {
    // <stream>
    let stream = mixed(mixed(step ^ mixed(tensor)) + what);
    // </stream>
    return stream;
}

fn noise(stream: u32, element: u32) -> u32 {
    // <noise>
    let noise = mixed(mixed(element) ^ stream);
    // </noise>
    return noise;
}
