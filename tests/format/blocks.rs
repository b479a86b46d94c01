//! Numbers of 8 bits, by blocks.

use wgpu_optim::format::Q8Zero;
use wgpu_optim::format::blocks::Map;

#[test]
fn every_code_comes_back_as_itself() {
    for map in [Map::new(false, Q8Zero::Guarded), Map::new(true, Q8Zero::Guarded), Map::new(true, Q8Zero::Reference)] {
        for code in 0..=u8::MAX {
            assert_eq!(map.encode(map.decode(code, 3.7), 3.7), code, "{map:?}");
        }
    }
}
