//! The file: what others read of it, where it is put, and what is left where that fails.

use std::fs;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use wgpu_optim::checkpoint::{Checkpoint, Error, Extras, Load, Save};
use wgpu_optim::{Adam, Optimizer, Tensor, output, wgpu};

use crate::run::{LOAD, OnCpu, OnGpu, Run, TENSORS, adam, folder, saved, small};
use crate::support::{Gpu, gpu, gpu_with};

#[test]
fn the_safetensors_crate_reads_what_is_written() {
    let (run, bytes) = saved();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let mut expected: Vec<String> = ["w", "b", "c"].iter().map(|name| format!("params.{name}")).collect();
    expected.push("extra.scales".into());
    expected.extend(run.world().state.iter().map(|(name, slot, _)| format!("state.{name}.{slot}")));
    expected.sort_unstable();
    assert_eq!(names, expected);
    for (name, slot, values) in run.world().state {
        let tensor = file.tensor(&format!("state.{name}.{slot}")).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[values.len()][..]));
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(tensor.data()), values);
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let value = |key: &str| serde_json::from_str::<Json>(&metadata[key]).unwrap();
    assert_eq!((metadata["format"].as_str(), metadata["version"].as_str()), ("wgpu-optim-checkpoint", "1"));
    assert_eq!(metadata["rule"], "adam");
    assert_eq!(value("steps"), json!({"w": 2, "b": 2, "c": 2}));
    assert_eq!(value("frozen"), json!([]));
    assert_eq!(value("extras"), json!({"note": "a"}));
    assert_eq!(value("groups")[1]["tensors"], json!(["b", "c"]));
    assert_eq!(value("groups")[0]["settings"]["lr"], json!(0.30000000000000004));
    assert_eq!(value("groups")[0]["settings"]["amsgrad"], json!(true));
}

/// CRC-32 as its standard has it (ISO 3309), bit by bit: the judge of what the library writes.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0u32, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |sum, _| step(sum)))
}

#[test]
fn checksums_are_those_of_zlib_over_the_header_and_each_tensor() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the standard's own example");
    let (_, bytes) = saved();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
    let value: String = text.strip_prefix("{\"__metadata__\":{\"crc32\":\"").unwrap().split('"').next().unwrap().into();
    let mut head = bytes[..8 + header].to_vec();
    head[34..34 + value.len()].fill(b'0');
    let mut expected = format!("{:08x}", crc32(&head));
    let (_, parsed) = SafeTensors::read_metadata(&bytes).unwrap();
    for name in parsed.offset_keys() {
        let (start, end) = parsed.info(&name).unwrap().data_offsets;
        expected += &format!("{:08x}", crc32(&bytes[8 + header + start..8 + header + end]));
    }
    assert_eq!(value, expected);
}

#[test]
fn a_file_is_replaced_and_nothing_is_left_beside_it() {
    let (folder, path) = folder();
    fs::write(&path, "old").unwrap();
    let mut run = small();
    run.step(1);
    run.save(&path, true, Extras::default()).unwrap();
    small().load(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_is_followed_and_stays() {
    let (folder, path) = folder();
    fs::create_dir(folder.path().join("disk")).unwrap();
    fs::write(folder.path().join("disk/real"), "old").unwrap();
    std::os::unix::fs::symlink("disk/real", &path).unwrap();
    small().save(&path, true, Extras::default()).unwrap();
    assert!(path.is_symlink());
    small().load(&folder.path().join("disk/real")).unwrap();
    assert_eq!(fs::read_dir(folder.path().join("disk")).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn what_is_no_place_for_a_file_is_refused_by_name() {
    let (folder, path) = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    for (name, says) in [
        ("folder", "is there and is not a regular file"),
        ("pipe", "is there and is not a regular file"),
        ("dangling", "is a link that leads to no file"),
        ("new/", "is no name for a file"),
        ("none/run", "cannot write"),
    ] {
        let error = small().save(&at(name), true, Extras::default()).unwrap_err();
        assert!(matches!(error, Error::Output(_)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
    }
    for name in ["folder", "pipe", "missing"] {
        assert!(matches!(Checkpoint::open(at(name)).unwrap_err(), Error::File(_)), "{name}");
    }
    assert!(!path.exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_device_that_is_lost_while_it_saves_leaves_the_old_file() {
    // A device of its own: others go on with theirs.
    let Some(gpu) = gpu_with(wgpu_optim::required_limits) else { return };
    let (folder, path) = folder();
    let mut run = OnGpu::new(&gpu, &adam(), &TENSORS);
    run.step(1);
    run.save(&path, true, Extras::default()).unwrap();
    let old = fs::read(&path).unwrap();
    gpu.device.destroy();
    let error = run.save(&path, true, Extras::default()).unwrap_err();
    assert!(matches!(error, Error::Optimizer(wgpu_optim::Error::DeviceLost { .. })), "{error:?}");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let error = run.load_with(&checkpoint, Load::default(), false).unwrap_err();
    assert!(matches!(error, Error::Optimizer(wgpu_optim::Error::DeviceLost { .. })), "{error:?}");
    assert!(fs::read(&path).unwrap() == old);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// In a process of its own, for which no file may have more than 4 KiB.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_old_file() {
    if let Some(path) = std::env::var_os("WGPU_OPTIM_FULL_DISK") {
        let error = OnCpu::new(&adam(), &TENSORS).save(path.as_ref(), true, Extras::default()).unwrap_err();
        assert!(matches!(error, Error::Output(output::Error::Write { .. })), "{error:?}");
        return;
    }
    let (folder, path) = folder();
    small().save(&path, true, Extras::default()).unwrap();
    let old = fs::read(&path).unwrap();
    let line = "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact file::a_disk_that_fills_up_leaves_the_old_file";
    let mut child = std::process::Command::new("sh");
    child.arg("-c").arg(line).arg(std::env::current_exe().unwrap()).env("WGPU_OPTIM_FULL_DISK", &path);
    let ran = child.output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(fs::read(&path).unwrap() == old);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Parameters that cannot be copied are refused before anything moves.
#[test]
fn parameters_need_usages_only_if_they_are_asked_for() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let (_folder, path) = folder();
    let buffer = |usage| {
        let descriptor = wgpu::BufferDescriptor { label: None, size: 64, usage, mapped_at_creation: false };
        device.create_buffer(&descriptor)
    };
    let storage = wgpu::BufferUsages::STORAGE;
    let make = |usage| Optimizer::new(device, Adam::PYTORCH, [Tensor::new("w", &buffer(usage), &buffer(storage))]);
    let all = Save { params: true, ..Default::default() };
    let readable = make(storage | wgpu::BufferUsages::COPY_SRC).unwrap();
    readable.save_blocking(device, queue, &path, &all).unwrap();
    let mut bare = make(storage).unwrap();
    bare.write_state_blocking(device, queue, "w", "exp_avg", &[1.0; 16]).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let load = Load { params: true, ..Default::default() };
    let error = bare.load_blocking(device, queue, &checkpoint, load).unwrap_err();
    assert!(error.to_string().contains("parameters of \"w\": the buffer lacks usage COPY_DST"), "{error}");
    assert_eq!(bare.read_state_blocking(device, queue, "w", "exp_avg").unwrap(), [1.0; 16]);
    let error = bare.save_blocking(device, queue, &path, &all).unwrap_err();
    assert!(error.to_string().contains("COPY_SRC"), "{error}");
    bare.load_blocking(device, queue, &checkpoint, Load::default()).unwrap();
    assert_eq!(bare.read_state_blocking(device, queue, "w", "exp_avg").unwrap(), [0.0; 16]);
}

#[test]
fn slices_that_are_not_the_tensors_are_refused() {
    let (run, bytes) = saved();
    let (_folder, path) = folder();
    let few: [&[f32]; 1] = [&[0.0; 5]];
    let error = run.optimizer.save(&path, &Save { params: Some(&few), ..Default::default() }).unwrap_err();
    assert_eq!(error.to_string(), "1 slices of parameters were given for 3 tensors");
    let short: [&[f32]; 3] = [&[0.0; 5], &[0.0; 1], &[0.0; 1]];
    let error = run.optimizer.save(&path, &Save { params: Some(&short), ..Default::default() }).unwrap_err();
    assert_eq!(error.to_string(), "slice of \"b\" has 1 elements, its parameters have 2");
    assert!(!path.exists());
    let mut other = small();
    other.params[1] = vec![0.0; 3];
    let before = other.world();
    assert!(other.load_with(&Checkpoint::from_bytes("run", bytes).unwrap(), LOAD, false).is_err());
    assert_eq!(other.world(), before);
}

#[test]
fn names_may_be_any_text() {
    let tensors = [
        ("", 3, 0),
        (" ", 1, 0),
        ("a.b/c", 2, 0),
        ("ä\u{301}\n\"\\", 5, 0),
        ("__metadata__", 1, 0),
        ("w.exp_avg", 4, 0),
    ];
    let (_folder, path) = folder();
    let mut run = OnCpu::new(&adam()[..1], &tensors);
    run.step(1);
    run.save(&path, true, Extras::default()).unwrap();
    let mut again = OnCpu::new(&adam()[..1], &tensors);
    again.load(&path).unwrap();
    assert_eq!(again.world(), run.world());
}

#[test]
fn settings_can_be_had_to_build_an_optimizer_like_it() {
    let checkpoint = Checkpoint::from_bytes("run", saved().1).unwrap();
    assert_eq!(checkpoint.rule(), "adam");
    assert_eq!(checkpoint.settings::<Adam>().unwrap(), adam());
    let error = checkpoint.settings::<wgpu_optim::RmsProp>().unwrap_err().to_string();
    assert_eq!(error, "run: it does not fit the optimizer: it is of rule \"adam\", the optimizer is of \"rmsprop\"");
}

#[test]
fn more_than_a_header_takes_is_not_written() {
    let (_folder, path) = folder();
    let mut extras = Extras::default();
    extras.values.insert("long".into(), "a".repeat(100_000_000).into());
    let error = small().save(&path, false, extras).unwrap_err();
    assert!(matches!(error, Error::File(wgpu_optim::safetensors::Error::HeaderTooLong { .. })), "{error:?}");
    assert!(error.to_string().ends_with("bytes, at most 100000000 are allowed"), "{error}");
    assert!(!path.exists());
}
