// Validates every kernel with Tint, Chromium's WGSL compiler, which refuses things that naga takes (barriers in
// non-uniform control flow, for one). Dawn's null backend compiles nothing further, so no driver is needed.
//
//     node tests/tint/validate.mjs [ROOT]      ROOT holds shaders/, examples/ and tests/; the repository by default

import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { create } from 'webgpu';

const root = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '../..');
const LANES = ['quads', 'words'];

// Dawn ends when this object is collected, with a crash or a hang of whatever is under way: so it is held for good.
globalThis.gpu = create(['backend=null']);

// A default device: the limits and features that every browser grants.
const adapter = await globalThis.gpu.requestAdapter();
const device = await adapter.requestDevice();

const shaders = (folder) => readdirSync(join(root, folder)).filter((name) => name.endsWith('.wgsl')).sort();

// A kernel is whole files laid end to end, in the order of `kernel::text`; in the example, one file.
function compositions() {
    const [walk, rows] = ['shaders/walk.wgsl', 'shaders/rows.wgsl'];
    const chain = (name) => `shaders/chain/${name}.wgsl`;
    const rules = shaders('shaders/rule').map((name) => `shaders/rule/${name}`);
    const around = ['shaders/open.wgsl', chain('gated')];
    const steps = rules.flatMap((rule) =>
        around.flatMap((around) =>
            LANES.flatMap((lanes) =>
                widths()
                    .filter((width) => !width.chance || around !== 'shaders/open.wgsl')
                    .map((width) => [walk, around, ...stored(lanes, width, true), rule]),
            ),
        ),
    );
    // A list of rows goes over no blocks of 8 bits, and a reset is of rows.
    const unblocked = widths().filter((width) => width.state !== 8);
    const listed = rules.flatMap((rule) =>
        around.flatMap((around) =>
            LANES.flatMap((lanes) =>
                unblocked
                    .filter((width) => !width.chance || around !== 'shaders/open.wgsl')
                    .map((width) => [rows, around, ...stored(lanes, width, true), rule]),
            ),
        ),
    );
    const watched = ['gated', 'norm', 'moves', 'weigh'].map(chain);
    const watching = rules.flatMap((rule) =>
        LANES.flatMap((lanes) => widths().map((width) => [walk, ...watched, ...stored(lanes, width, true, true), rule])),
    );
    const measures = ['norm', 'sums', 'weigh', 'measure'].map(chain);
    const looks = [[chain('accumulate')], measures].flatMap((own) =>
        LANES.flatMap((lanes) =>
            widths()
                .filter((width) => !width.chance && width.params === 32)
                .map((width) => [walk, ...own, ...stored(lanes, width, false)]),
        ),
    );
    const over = [[chain('accumulate')], measures].flatMap((own) =>
        LANES.flatMap((lanes) =>
            unblocked
                .filter((width) => !width.chance && width.params === 32)
                .map((width) => [rows, ...own, ...stored(lanes, width, false)]),
        ),
    );
    const resets = [walk, rows].flatMap((walk) =>
        LANES.flatMap((lanes) =>
            unblocked
                .filter((width) => !width.chance)
                .map((width) => [walk, 'shaders/reset.wgsl', ...stored(lanes, width, false, false, true)]),
        ),
    );
    const halves = ['words/lanes', 'words/halves', 'format/narrow', 'format/halves'].map((name) => `shaders/${name}.wgsl`);
    const remap = (units, ...files) => ['shaders/remap.wgsl', ...files, `shaders/remap/${units}.wgsl`];
    const moves = [remap('words'), remap('halves', ...halves), remap('widened', ...halves)];
    const others = [...looks, ...over, ...resets, ...moves];
    const example = shaders('examples/train_digits').map((name) => [`examples/train_digits/${name}`]);
    const gathers = ['sums', 'moves'].map((parts) => ['norm', parts, 'gather'].map(chain));
    const formats = [...['halves', 'noise', 'blocks'].map((name) => `shaders/format/${name}.wgsl`), 'tests/format/kernel.wgsl'];
    return [...steps, ...listed, ...watching, ...others, ...gathers, [chain('control')], formats, ...example];
}

// Bits of parameters, of gradients and of the narrowest plane of state, and whether anything is rounded by chance.
function widths() {
    const pairs = [32, 16].flatMap((params) => [32, 16].map((grads) => ({ params, grads })));
    const states = pairs.flatMap((pair) => [32, 16, 8].map((state) => ({ ...pair, state })));
    return states.flatMap((width) => [false, true].map((chance) => ({ ...width, chance })));
}

// The files with the entry point of a step.
function entry(state, chance, halves, watched) {
    if (!watched && state !== 8 && !chance) {
        return ['shaders/step.wgsl'];
    }
    return [
        ...(halves || chance ? [] : ['shaders/format/steady.wgsl']),
        ...(state === 8 ? [] : ['shaders/format/whole.wgsl']),
        watched ? 'shaders/chain/watched.wgsl' : 'shaders/format/step.wgsl',
    ];
}

// The files of `kernel::formats`, for a kernel that steps or that only looks at gradients and sums, or at parameters.
function stored(lanes, { params, grads, state, chance }, steps, watched = false, looks = steps) {
    const own = (name) => `shaders/${lanes}/${name}.wgsl`;
    const format = (name) => `shaders/format/${name}.wgsl`;
    const halves = grads === 16 || state < 32 || (params === 16 && looks);
    return [
        own('lanes'),
        ...(looks ? [own(`params${params}`)] : []),
        ...(looks && params === 16 ? [format('params')] : []),
        own(`grads${grads}`),
        own(`state${state}`),
        ...(state < 32 ? [format('planes')] : []),
        ...(state === 8 ? [format('coded'), format('blocks')] : []),
        ...(halves ? [format('halves'), format('narrow'), own('halves')] : []),
        ...(chance ? [format('noise'), format('chance'), own('chance')] : halves ? [format('steady')] : []),
        ...(steps ? entry(state, chance, halves, watched) : []),
    ];
}

function read(path) {
    const text = readFileSync(join(root, path), 'utf8');
    return { path, text: text.endsWith('\n') ? text : `${text}\n` };
}

// The line of the file that a line of the concatenation came from.
function origin(files, line) {
    for (const { path, text } of files) {
        const lines = text.split('\n').length - 1;
        if (line <= lines) return `${path}:${line}`;
        line -= lines;
    }
    return 'end of the shader';
}

// More switches than this are not tried in every combination: none, all, one of them, and all but one.
const MOST = 9;

// Every combination of the switches named HAS_*, as pipeline constants; other overrides keep their defaults.
function switches(code) {
    const names = [...code.replace(/\/\/.*/g, '').matchAll(/\boverride\s+(HAS_\w+)/g)].map((match) => match[1]);
    const of = (on) => Object.fromEntries(names.map((name) => [name, on(name) ? 1 : 0]));
    if (names.length > MOST) {
        return [of(() => false), of(() => true), ...names.flatMap((one) => [of((name) => name === one), of((name) => name !== one)])];
    }
    return Array.from({ length: 2 ** names.length }, (_, bits) =>
        Object.fromEntries(names.map((name, bit) => [name, (bits >> bit) & 1])),
    );
}

async function scoped(build) {
    device.pushErrorScope('validation');
    const built = build();
    return { built, error: await device.popErrorScope() };
}

// What Tint says against these files, as lines of text, and how many pipelines it made of them.
async function validate(files) {
    const code = files.map(({ text }) => text).join('');
    const { built: module } = await scoped(() => device.createShaderModule({ code }));
    const { messages } = await module.getCompilationInfo();
    const faults = messages
        .filter(({ type }) => type === 'error')
        .map(({ lineNum, linePos, message }) => `${origin(files, lineNum)}:${linePos}: ${message}`);
    if (faults.length > 0) return { faults, pipelines: 0 };

    const entryPoint = code.match(/@compute[^{]*?\bfn\s+(\w+)/)[1];
    const variants = switches(code);
    for (const constants of variants) {
        const compute = { module, entryPoint, constants };
        const { error } = await scoped(() => device.createComputePipeline({ layout: 'auto', compute }));
        if (error) faults.push(`${JSON.stringify(constants)}: ${error.message}`);
    }
    return { faults, pipelines: variants.length };
}

// Shaders that must be refused, the first as a module, the second as a pipeline with one of its switches on.
const BROKEN = {
    'a barrier that not every invocation reaches': `
        @group(0) @binding(0) var<storage, read_write> data: array<u32>;
        @compute @workgroup_size(64) fn step(@builtin(global_invocation_id) id: vec3<u32>) {
            if data[id.x] == 0u { workgroupBarrier(); }
        }`,
    'a workgroup that no device has room for': `
        override HAS_ROOM: bool = false;
        override WORKGROUP: u32 = select(64u, 65536u, HAS_ROOM);
        @compute @workgroup_size(WORKGROUP) fn step() {}`,
};

let failed = 0;
for (const [what, text] of Object.entries(BROKEN)) {
    const { faults } = await validate([{ path: what, text: `${text}\n` }]);
    if (faults.length !== 1) {
        console.error(`FAILED ${what} should be refused once, and was ${faults.length} times: this check sees nothing`);
        process.exit(1);
    }
}

const kernels = compositions();
for (const kernel of kernels) {
    const { faults, pipelines } = await validate(kernel.map(read));
    if (faults.length > 0) failed += 1;
    console.log(`${faults.length > 0 ? 'FAILED' : 'ok'} ${kernel.join(' + ')} (${pipelines} pipelines)`);
    for (const fault of faults) console.log(`    ${fault}`);
}
console.log(`${kernels.length} compositions, ${failed} failed`);
// Dawn would keep the process alive.
process.exit(failed > 0 || kernels.length === 0 ? 1 : 0);
