import type { TranslationBundle } from '@jupyterlab/translation';
import type { Values } from './values';

/** Says a sentence of the server with its values. */
export type Teller = (values: Values) => string;

/** By code, as `jupyter_gpu_share/sentences/_table.py` has them; a test holds both together. */
export function tellers(trans: TranslationBundle): Record<string, Teller> {
  return {
    // What becomes of a kernel.
    'waiting-interrupted': () => trans.__('Waiting was interrupted.'),
    'place-given-up': () => trans.__('The place in the queue was given up.'),
    'cell-asks-again': () => trans.__('Running a cell asks for the GPU again.'),
    'kept-until-next-cell': () =>
      trans.__('The variables are kept; the next cell takes the share back.'),
    'saved-until-next-cell': () =>
      trans.__('The variables are saved; the next cell brings them back.'),
    'next-cell-starts-anew': () => trans.__('The next cell starts a new kernel without variables.'),
    'server-started-again': () =>
      trans.__('The Jupyter server was started again; the next cell brings the variables back.'),
    'cell-was-run': () => trans.__('a cell was run'),
    'has-ended': () => trans.__('The kernel has ended.'),
    'was-shut-down': () => trans.__('The kernel was shut down.'),
    restarts: () => trans.__('The kernel restarts.'),
    'was-ended': () => trans.__('The kernel was ended.'),
    'all-variables': () => trans.__('all variables'),
    more: v => trans.__('%1 more', v.number('number')),
    // Why its share goes back, or stays.
    unused: v => trans.__('No cell since %1.', v.clock('since')),
    'unused-without-use': v =>
      trans.__(
        'No cell since %1, GPU use %2, no background work.',
        v.clock('since'),
        v.percent('use')
      ),
    'unused-without-use-of-all': v =>
      trans.__(
        'No cell since %1, GPU use %2 of the whole GPU, no background work.',
        v.clock('since'),
        v.percent('use')
      ),
    'unused-use-unknown': v =>
      trans.__('No cell since %1, GPU use not known, no background work.', v.clock('since')),
    works: v => trans.__('No cell runs, but the kernel works: %1.', v.list('what')),
    use: v => trans.__('GPU use %1', v.percent('use')),
    'use-of-all': v => trans.__('GPU use %1 of the whole GPU', v.percent('use')),
    'use-unknown': () => trans.__('GPU use not known'),
    'cell-runs': () => trans.__('a cell runs'),
    'somebody-uses': () => trans.__('somebody uses it'),
    'share-stays': () => trans.__('The share stays.'),
    'share-stays-for-variables': v =>
      trans.__('The share stays: giving it back would lose %1.', v.list('lost')),
    'no-share': () => trans.__('This kernel has no share of a GPU.'),
    'kept-as-asked': () =>
      trans.__('It is kept as you asked, and goes back then if it is not used.'),
    'cell-takes-back': () => trans.__('Running a cell takes the share back.'),
    'ends-after-release': v =>
      trans.__('The kernel ends %1 after its share went back.', v.span('after')),
    'goes-for-others': v =>
      trans.__(
        'Somebody waits for a share; this one goes back after %1 without use.',
        v.span('after')
      ),
    'taken-for-others': () =>
      trans.__('This share was taken for others, as it was not given back in time.'),
    'goes-after': v => trans.__('It goes back after %1 without use.', v.span('after')),
    'seldom-soon': v =>
      trans.__('After %1 without use, a notebook seldom goes on soon.', v.span('after')),
    'seldom-soon-here': v =>
      trans.__(
        'This notebook usually pauses %1; after %2 it seldom goes on soon.',
        v.span('usual'),
        v.span('after')
      ),
    'never-goes': () => trans.__('This share does not go back by itself.'),
    'not-kept-so-stays': () => trans.__('Its variables could not be kept, so the share stays.'),
    'goes-if-wanted': v =>
      trans.__('It goes back when somebody waits, after %1 unused.', v.span('after')),
    'soon-so-stays': () => trans.__('This notebook usually goes on soon, so the share stays.'),
    // How far something is.
    'bringing-back': v => trans.__('Bringing the variables back: %1 so far.', v.span('time')),
    'bringing-back-of': v =>
      trans.__('Bringing the variables back: %1, %2 so far.', v.bytes('done'), v.span('time')),
    saving: v => trans.__('Saving the variables: %1 so far.', v.span('time')),
    'saving-of': v =>
      trans.__('Saving the variables: %1, %2 so far.', v.bytes('done'), v.span('time')),
    'moving-away': v => trans.__("Moving the GPU's memory away: %1 so far.", v.span('time')),
    'moving-away-of': v =>
      trans.__("Moving the GPU's memory away: %1, %2 so far.", v.bytes('done'), v.span('time')),
    'moving-back': v => trans.__("Moving the GPU's memory back: %1 so far.", v.span('time')),
    'moving-back-of': v =>
      trans.__("Moving the GPU's memory back: %1, %2 so far.", v.bytes('done'), v.span('time')),
    // What it waits for, and what can never be had.
    'needs-room': v =>
      trans.__(
        'It needs %1 of one GPU; the emptiest has %2 of %3 free.',
        v.bytes('need'),
        v.bytes('room'),
        v.bytes('whole')
      ),
    'needs-room-of-each': v =>
      trans.__(
        'It needs %1 of each of %2 GPUs; the emptiest has %3 of %4 free.',
        v.bytes('need'),
        v.number('count'),
        v.bytes('room'),
        v.bytes('whole')
      ),
    'earlier-first': () => trans.__('Kernels that came earlier get that room first.'),
    'instances-in-use': v =>
      trans.__(
        '%1 of %2 instances %3 are in use.',
        v.number('busy'),
        v.number('all'),
        v.text('profile')
      ),
    'gpus-changed': () => trans.__('The GPUs have changed.'),
    'one-instance-only': v =>
      trans.__('%1 cannot be had here: a program can use one MIG instance only.', v.size('size')),
    'no-such-profile': v =>
      trans.__(
        'No GPU here has a MIG profile %1; there are %2.',
        v.text('profile'),
        v.list('profiles')
      ),
    'no-mig': v =>
      trans.__('No GPU here has a MIG profile %1; none is in MIG mode.', v.text('profile')),
    'more-than-largest': v =>
      trans.__('%1 is more than the largest GPU here (%2).', v.bytes('need'), v.bytes('largest')),
    'less-than-a-byte': v =>
      trans.__(
        '%1 is less than one byte of a GPU here (%2); ask for more.',
        v.size('size'),
        v.bytes('largest')
      ),
    'all-split': v =>
      trans.__(
        '%1 cannot be had here: all GPUs are split into MIG instances; ask for one.',
        v.size('size')
      ),
    'one-such-gpu': v =>
      trans.__('%1 needs %2 GPUs; this machine has 1 such GPU.', v.size('size'), v.number('count')),
    'few-such-gpus': v =>
      trans.__(
        '%1 needs %2 GPUs; this machine has %3 such GPUs.',
        v.size('size'),
        v.number('count'),
        v.number('number')
      ),
    'no-place': v => trans.__('The cluster has no place for it: %1.', v.text('cause')),
    'scheduler-silent': v =>
      trans.__(
        "The scheduler %1 has said nothing about the kernel's pod yet. If this lasts, tell the administrator that it may not run.",
        v.text('scheduler')
      ),
    'kueue-waits': v =>
      trans.__('It waits for admission by Kueue, queue %1: %2.', v.text('queue'), v.text('cause')),
    'kueue-quota': v =>
      trans.__(
        'It waits for admission by Kueue, queue %1: the quota is used up, it lacks %2.',
        v.text('queue'),
        v.text('needed')
      ),
    'kueue-never': v =>
      trans.__(
        'It waits for admission by Kueue, queue %1, which has never more than %2 of %3. Choose a smaller size, or tell the administrator.',
        v.text('queue'),
        v.text('most'),
        v.text('resource')
      ),
    'kueue-silent': v =>
      trans.__(
        'It waits for admission by Kueue, queue %1, which has not said why. If this lasts, tell the administrator that there may be no such LocalQueue, or that Kueue may not run.',
        v.text('queue')
      ),
    'no-place-in-time': () =>
      trans.__(
        'The kernel has waited for its place as long as the administrator allows (c.KubernetesEngine.longest_wait). Start it again later, or choose a smaller size.'
      ),
    'share-not-confirmed': () =>
      trans.__(
        'The cluster had not confirmed by then that the share is free; it is asked until it does.'
      ),
    'outcome-unknown': () =>
      trans.__(
        "The cluster has not answered yet what became of the kernel's last change. Its share is asked for when that is known."
      ),
    'node-prepares': v =>
      trans.__(
        "The node %1 is still preparing the kernel's container: it pulls the image, or mounts volumes.",
        v.text('node')
      ),
    'node-says': v => trans.__('It says (%1): %2.', v.text('reason'), v.text('cause')),
    'node-too-slow': () =>
      trans.__(
        'The node has not brought the kernel up in the time that the administrator allows (c.KubernetesEngine.node_patience). Try again, or tell the administrator.'
      ),
    'gpu-not-told': v =>
      trans.__(
        "The kernel's pod is on the node %1, but nothing in the cluster says which GPU it has. If this lasts, tell the administrator.",
        v.text('node')
      ),
    // Why there is no gpu.
    'way-out': () =>
      trans.__(
        'Choose size 0 for a kernel without a GPU, or set JUPYTER_GPU_SHARE_SIMULATE=2xA100-80GB to simulate GPUs.'
      ),
    'driver-sees-none': () => trans.__('The NVIDIA driver is here but sees no GPU.'),
    'none-visible': v =>
      trans.__(
        'The server was started with %1=%2, which leaves it no GPU; start it without.',
        v.text('name'),
        v.text('value')
      ),
    'no-driver-library': () =>
      trans.__(
        "No NVIDIA GPU was found on this machine: NVIDIA's library libnvidia-ml.so.1 is not installed."
      ),
    'driver-not-loaded': () =>
      trans.__("NVIDIA's driver is not loaded; load it (nvidia-smi says more)."),
    'driver-updated': () =>
      trans.__(
        "NVIDIA's driver was updated under the running system: its library and its kernel module are of different versions. Restart the machine, or load the module anew."
      ),
    'driver-not-asked': v =>
      trans.__("NVIDIA's driver cannot be asked for GPUs: %1.", v.text('cause')),
    'driver-silent': v =>
      trans.__("NVIDIA's driver does not answer: %1. Check nvidia-smi.", v.text('cause')),
    'gpu-without-memory': v =>
      trans.__('GPU %1 has no memory of its own that could be shared out.', v.number('index')),
    'gpu-silent': v =>
      trans.__(
        'GPU %1 does not answer (%2) and is not offered; nvidia-smi says more.',
        v.number('index'),
        v.text('cause')
      ),
    'gpu-gone': v => trans.__('%1 is not there any more; start the kernel again.', v.text('gpu')),
    // Why a kernel did not start, or has ended.
    'exit-code': v => trans.__("The kernel's process ended with exit code %1.", v.number('code')),
    'exit-signal': v => trans.__("The kernel's process was ended by %1.", v.text('name')),
    'memory-short': () => trans.__('The machine may have run out of memory.'),
    'no-process': () => trans.__('The kernel does not run.'),
    'not-watched': v => trans.__('The kernel cannot be watched any more: %1', v.said('cause')),
    'command-not-run': v =>
      trans.__(
        "The kernel's command %1 cannot be run: %2. Check argv and cwd of its kernelspec.",
        v.text('command'),
        v.text('cause')
      ),
    'variables-gone': () =>
      trans.__(
        "The variables that were saved are gone: somebody or something has removed their file from the server's disk. Restart the kernel to go on without them."
      ),
    'variables-not-back': v =>
      trans.__(
        'The variables could not be given back to the kernel: %1 They are still kept; run a cell to try again, or restart the kernel to go on without them.',
        v.said('cause')
      ),
    'no-answer': v =>
      trans.__(
        'The kernel did not answer within %1 s. An ipykernel older than 7.3 cannot answer an encrypted connection; otherwise raise GpuShareProvisioner.start_timeout.',
        v.number('patience')
      ),
    'ended-before-answer': v =>
      trans.__(
        'The kernel ended before it answered: %1 What it printed last is in the log of the Jupyter server.',
        v.said('cause')
      ),
    'server-stops': () => trans.__('The Jupyter server stops; no kernel starts any more.'),
    // Why a kernel in a pod did not start, or has ended.
    'image-not-had': v =>
      trans.__(
        'The image %1 cannot be had (%2): %3.',
        v.text('image'),
        v.text('reason'),
        v.text('cause')
      ),
    'image-by-name': () => trans.__('Check its name, or choose another kernel.'),
    'image-later': () => trans.__('Try again later, or choose another kernel.'),
    'container-not-made': v =>
      trans.__(
        "The node could not make the kernel's container (%1): %2.",
        v.text('reason'),
        v.text('cause')
      ),
    'tell-administrator': () => trans.__('Tell the administrator.'),
    'node-tries-again': () => trans.__('The node tries again.'),
    'put-out': v =>
      trans.__(
        'The node put the kernel out: %1. Restart it; a larger memory request makes this less likely.',
        v.text('cause')
      ),
    'put-out-for-room': () =>
      trans.__(
        'The node put the kernel out: it was short of memory or disk. Restart it; a larger memory request makes this less likely.'
      ),
    'longest-life': () =>
      trans.__(
        'The kernel reached the longest life that the administrator allows (c.KubernetesEngine.longest_life). Restart it.'
      ),
    'node-lost-or-down': v =>
      trans.__("The kernel's node was lost or shut down (%1). Restart it.", v.text('reason')),
    'node-without-room': v =>
      trans.__(
        'The node had no room after all (%1): %2. Try again.',
        v.text('reason'),
        v.text('cause')
      ),
    'pod-ended': v => trans.__("The kernel's pod has ended (%1).", v.text('cause')),
    'pod-ended-with-code': v =>
      trans.__("The kernel's pod has ended with code %1.", v.number('code')),
    'pod-ended-with-code-said': v =>
      trans.__("The kernel's pod has ended with code %1: %2.", v.number('code'), v.text('cause')),
    'kueue-preempted': v =>
      trans.__(
        "Kueue has given the kernel's quota in the queue %1 to others: they have a higher priority, or the quota is theirs.",
        v.text('queue')
      ),
    'kueue-stopped': v =>
      trans.__(
        "Kueue's queue %1, or the kernel's place in it, was stopped by an administrator. Ask when it goes on.",
        v.text('queue')
      ),
    'kueue-put-out': v =>
      trans.__('Kueue took the kernel out of the queue %1: %2.', v.text('queue'), v.text('cause')),
    'restart-queues': () => trans.__('Restart it to queue again.'),
    'holder-ended': () =>
      trans.__(
        "What held the kernel's share has ended on its node, so the kernel was ended. Restart it to queue for another."
      ),
    'share-taken': () =>
      trans.__(
        "The kernel's share was taken away in the cluster (what held it was deleted, by an administrator or by the scheduler), so the kernel was ended. Restart it to queue for another."
      ),
    'no-memory': () =>
      trans.__(
        'The kernel was ended for want of memory (of the machine, not of the GPU). Restart it and use less at a time, or ask for more memory.'
      ),
    'no-memory-in-limit': v =>
      trans.__(
        'The kernel was ended for want of memory, its limit is %1 (of the machine, not of the GPU). Restart it and use less at a time, or ask for more memory.',
        v.text('limit')
      ),
    'pod-told-to-end': () =>
      trans.__(
        "The kernel's pod was told to end from outside. Restart the kernel to get a new one."
      ),
    'could-not-run': v => trans.__('The kernel could not run: %1.', v.text('cause')),
    'ended-by-signal': v => trans.__('The kernel was ended by %1.', v.text('name')),
    'ended-with-code': v => trans.__('The kernel ended with code %1.', v.number('code')),
    'beside-failed': v =>
      trans.__(
        'The container %1 beside the kernel has failed with code %2. Tell the administrator.',
        v.text('name'),
        v.number('code')
      ),
    'beside-failed-said': v =>
      trans.__(
        'The container %1 beside the kernel has failed with code %2: %3. Tell the administrator.',
        v.text('name'),
        v.number('code'),
        v.text('cause')
      ),
    'image-not-run': v =>
      trans.__(
        'The image cannot run the kernel (%1). It needs Python with ipykernel.',
        v.text('cause')
      ),
    'node-lost-it': () => trans.__("The kernel's node has lost it, as after a reboot. Restart it."),
    'pod-killed': () => trans.__("The kernel's pod was killed from outside (SIGKILL)."),
    'pod-deleted': () =>
      trans.__(
        "The kernel's pod was deleted in the cluster, by an administrator or by the scheduler. Restart the kernel to get a new one."
      ),
    'share-reclaimed': () =>
      trans.__(
        "The kernel's share was reclaimed for work of higher priority. Restart it to queue for another."
      ),
    'pod-evicted-for-work': () =>
      trans.__(
        "The kernel's pod was evicted, as when a node is emptied for maintenance. Restart it."
      ),
    'node-out-of-service': () =>
      trans.__("The kernel's node was lost, or taken out of service. Restart it."),
    'node-gone': () => trans.__("The kernel's node is gone. Restart it."),
    'gpu-out-of-service': () => trans.__("The kernel's GPU was taken out of service. Restart it."),
    'pod-evicted': v =>
      trans.__("The kernel's pod was evicted (%1). Restart it.", v.text('reason')),
    // Why it is being ended while its variables can be saved.
    'removed-by-eviction': () =>
      trans.__("The cluster took the kernel's pod away (eviction, as when its node is drained)."),
    'removed-for-work': () =>
      trans.__("The cluster took the kernel's pod away for work of higher priority."),
    'removed-by-scheduler': () =>
      trans.__(
        "The cluster took the kernel's pod away, most likely for other work: its priority allows that."
      ),
    'removed-from-node': () =>
      trans.__("The cluster took the kernel's pod away: its node is out of service."),
    'removed-from-gpu': () =>
      trans.__("The cluster took the kernel's pod away: its GPU is out of service."),
    'removed-by-node': () =>
      trans.__(
        "The kernel's node ended its pod, as when it shuts down or is short of memory or disk."
      ),
    'removed-by-other': v =>
      trans.__("The cluster took the kernel's pod away (%1).", v.text('reason')),
    'removed-by-deletion': () =>
      trans.__(
        "The kernel's pod was deleted in the cluster, by an administrator or another program."
      ),
    'variables-are-saved': () => trans.__('Its variables are being saved.'),
    'variables-come-back': () =>
      trans.__('The variables are saved and come back with the next cell, in a new pod.'),
    'variables-lost': v => trans.__('Lost: %1.', v.list('lost')),
    'cell-did-not-end': () => trans.__('a cell ran that did not end when it was interrupted.'),
    'no-time-to-save': v =>
      trans.__('that took longer than the time that was left, %1.', v.span('grace')),
    'interrupted-for-saving': () =>
      trans.__('The running cell is interrupted, so that the variables can be saved.'),
    'node-lost': () => trans.__("The kernel's node was lost. Restart it to get another place."),
    // Why something cannot be done now.
    'cell-runs-now': () => trans.__('A cell runs; interrupt it or wait for its end.'),
    'cell-run-just-now': () => trans.__('A cell was run just now; the share stays.'),
    'not-asked': () => trans.__('A cell was run just now, so the kernel was not asked.'),
    'wanted-just-now': () => trans.__('The kernel was wanted just now; nothing was given back.'),
    'ended-just-now': () => trans.__('The kernel has just ended.'),
    'ended-restart': () => trans.__('The kernel has ended; restart it.'),
    'share-just-came': () => trans.__('The kernel has got its share just now; try again.'),
    'nothing-to-ask': () => trans.__('The kernel holds no share now, so it cannot be asked.'),
    'share-just-came-goes-on': () =>
      trans.__('The share has come just now; the kernel goes on with it. Try again in a moment.'),
    'nothing-to-give-back': () =>
      trans.__('The kernel holds no share that could be given back now.'),
    'release-would-lose': v =>
      trans.__('Giving the share back now would lose %1; nothing was changed.', v.list('lost')),
    'resize-would-lose': v =>
      trans.__(
        'Changing the size to %1 now would lose %2; nothing was changed.',
        v.size('size'),
        v.list('lost')
      ),
    'allow-the-loss': v => trans.__('Save what you need, then allow the loss (%1).', v.text('how')),
    'works-now': v => trans.__('The kernel works: %1.', v.list('what')),
    'resize-would-restart': v =>
      trans.__(
        'Changing the size to %1 restarts the kernel and all variables are lost; allow that with lose_variables.',
        v.size('size')
      ),
    'not-resized': v => trans.__('The size could not become %1: %2', v.size('size'), v.said('why')),
    'no-room-to-resize': v =>
      trans.__('The size cannot become %1 now: %2', v.size('size'), v.said('why')),
    'cannot-come-back': v => trans.__('The kernel cannot come back with %1.', v.size('size')),
    'lives-on': v =>
      trans.__(
        'The kernel lives on, and its variables with it; it cannot come back with %1. Run a cell first, then change the size.',
        v.size('size')
      ),
    'uses-too-much': v =>
      trans.__(
        'The kernel uses %1 of its GPU, which is more than %2 has (%3). Free some of it, then try again.',
        v.bytes('used'),
        v.size('size'),
        v.bytes('has')
      ),
    'no-room': v => trans.__('Its GPU has no room for %1.', v.size('size')),
    'others-were-faster': v =>
      trans.__('Others were faster: its GPU has no room for %1 any more.', v.size('size')),
    'keep-limit': v => trans.__('A share can be kept for %1 hours at most.', v.number('hours')),
    'keep-over': () => trans.__('keep_until is over already; null ends the keeping.'),
    'not-saved': v => trans.__('The variables could not be saved: %1', v.said('why')),
    'cannot-be-saved': v => trans.__('The variables cannot be saved: %1', v.said('why')),
    'cannot-be-asked': v => trans.__('The kernel cannot be asked: %1', v.said('why')),
    'too-large': v =>
      trans.__(
        'The variables take %1; at most %2 are kept here.',
        v.bytes('size'),
        v.bytes('limit')
      ),
    'only-python-keeps': () => trans.__('Only kernels of Python can keep their variables.'),
    'only-python-limits': () => trans.__('Only kernels of Python can be given other limits.'),
    'not-moved-away': v => trans.__("The GPU's memory could not be moved away: %1", v.said('why')),
    'no-kernelspec': v => trans.__('There is no kernelspec %1.', v.text('name')),
    'kernelspec-names-size': v =>
      trans.__(
        'Kernels of the kernelspec %1 start with the size %2 that it names; choose another kernelspec for another size.',
        v.text('name'),
        v.size('size')
      ),
    'kernelspec-without-share': v =>
      trans.__(
        'Kernels of the kernelspec %1 start without a share of a GPU; choose no size for them, or another kernelspec.',
        v.text('name')
      ),
    'runs-already': () => trans.__('That kernel runs already; change its size with PATCH.'),
    'no-such-kernel': () =>
      trans.__('This server runs no kernel with that id on a share of a GPU.'),
    'not-logged-in': () => trans.__('You are not logged in to this server.'),
    'no-right': () => trans.__('You are not logged in to this server, or may not use gpu_share.'),
    'nothing-here': () =>
      trans.__(
        'There is nothing at this address, or the request came from the page of another site.'
      ),
    'server-failed': () => trans.__('The server met an error; its log says more.'),
    // Sizes.
    'not-a-size': v =>
      trans.__(
        '%1 is not a size; write a fraction (1/4), memory (10GiB), a MIG profile (mig-1g.10gb), or 0 for no GPU',
        v.text('text')
      ),
    'size-too-long': v =>
      trans.__(
        '%1 is too long for a size; write a fraction (1/4), memory (10GiB), a MIG profile (mig-1g.10gb), or 0 for no GPU',
        v.text('text')
      ),
    'size-negative': v =>
      trans.__(
        '%1 is negative; write a fraction (1/4), memory (10GiB), a MIG profile (mig-1g.10gb), or 0 for no GPU',
        v.text('text')
      ),
    'size-by-zero': v =>
      trans.__(
        '%1 divides by zero; write a fraction (1/4), memory (10GiB), a MIG profile (mig-1g.10gb), or 0 for no GPU',
        v.text('text')
      ),
    'size-of-no-gpu': v => trans.__('%1 asks for no GPU at all; write 0 for that', v.text('text')),
    'size-of-no-gpu-often': v =>
      trans.__('%1 asks for no GPU several times; write 0', v.text('text')),
    'size-of-many-gpus': v =>
      trans.__(
        '%1 asks for %2 GPUs; one kernel can have 64 at most',
        v.text('text'),
        v.number('count')
      ),
    'size-of-no-memory': v =>
      trans.__('%1 is no memory at all; write 0 for a kernel without a GPU', v.text('text')),
    'size-not-in-bytes': v => trans.__('%1 is not a whole number of bytes', v.text('text')),
    'size-above-one': v => trans.__('%1 is more than one GPU', v.text('text')),
    'size-above-one-here': v =>
      trans.__(
        '%1 is more than one GPU; the largest size here is %2',
        v.text('text'),
        v.size('largest')
      ),
    'size-above-one-whole': v =>
      trans.__(
        '%1 is more than one GPU; for %2 whole GPUs write %3',
        v.text('text'),
        v.number('count'),
        v.size('size')
      ),
    'size-above-one-whole-here': v =>
      trans.__(
        '%1 is more than one GPU; for %2 whole GPUs write %3; the largest size here is %4',
        v.text('text'),
        v.number('count'),
        v.size('size'),
        v.size('largest')
      ),
    'size-to-be-named': v =>
      trans.__(
        "A size has to be named here, as the administrator's rules exclude all that are offered; the largest size here is %1",
        v.size('largest')
      ),
    'size-not-offered': v =>
      trans.__('%1 is not offered here; choose one of %2', v.size('size'), v.list('sizes')),
    'no-size-offered': v =>
      trans.__('%1 is not offered here; ask the administrator', v.size('size')),
    'zero-excluded': () =>
      trans.__('A kernel without a GPU cannot be chosen here; name a size above 0'),
    'profiles-excluded': () =>
      trans.__('MIG profiles cannot be chosen here; name a fraction or memory'),
    'one-gpu-at-most': v =>
      trans.__(
        '%1 asks for %2 GPUs; a kernel has one GPU at most',
        v.size('size'),
        v.number('count')
      ),
    'gpus-at-most': v =>
      trans.__(
        '%1 asks for %2 GPUs; a kernel has %3 GPUs at most',
        v.size('size'),
        v.number('count'),
        v.number('most')
      ),
    'size-too-large': v =>
      trans.__(
        '%1 is more than a kernel may have; the largest size here is %2',
        v.size('size'),
        v.size('largest')
      ),
    'size-too-small': v =>
      trans.__(
        '%1 is less than is given out; the smallest size here is %2',
        v.size('size'),
        v.size('smallest')
      ),
    'total-memory-at-most': v =>
      trans.__(
        'With %1 your kernels would hold %2; %3 is the limit here. Shut down one, or choose a smaller size',
        v.size('size'),
        v.bytes('total'),
        v.bytes('limit')
      ),
    'total-gpus-at-most': v =>
      trans.__(
        'With %1 your kernels would hold %2 GPUs; %3 GPUs is the limit here. Shut down one, or choose a smaller size',
        v.size('size'),
        v.text('total'),
        v.text('limit')
      ),
    // Limits of the broker.
    'limit-user-has': v =>
      trans.__('%1 may have %2 and now has %3.', v.text('name'), v.said('limit'), v.said('held')),
    'limit-own-has': v =>
      trans.__(
        'By your own configuration %1 may have %2 and now has %3.',
        v.text('name'),
        v.said('limit'),
        v.said('held')
      ),
    'limit-group-has': v =>
      trans.__(
        'Group %1 may have %2 and now has %3.',
        v.text('name'),
        v.said('limit'),
        v.said('held')
      ),
    'limit-total-has': v =>
      trans.__('Everybody together may have %1 and now has %2.', v.said('limit'), v.said('held')),
    'limit-user-never': v =>
      trans.__(
        '%1 is more than %2 may have: %3.',
        v.said('asked'),
        v.text('name'),
        v.said('limit')
      ),
    'limit-own-never': v =>
      trans.__(
        '%1 is more than %2 may have by your own configuration: %3.',
        v.said('asked'),
        v.text('name'),
        v.said('limit')
      ),
    'limit-group-never': v =>
      trans.__(
        '%1 is more than group %2 may have: %3.',
        v.said('asked'),
        v.text('name'),
        v.said('limit')
      ),
    'limit-total-never': v =>
      trans.__(
        '%1 is more than everybody together may have: %2.',
        v.said('asked'),
        v.said('limit')
      ),
    'limit-user-hours': v =>
      trans.__(
        '%1 may use %2 in %3 and has used %4.',
        v.text('name'),
        v.said('limit'),
        v.said('window'),
        v.said('held')
      ),
    'limit-own-hours': v =>
      trans.__(
        'By your own configuration %1 may use %2 in %3 and has used %4.',
        v.text('name'),
        v.said('limit'),
        v.said('window'),
        v.said('held')
      ),
    'limit-group-hours': v =>
      trans.__(
        'Group %1 may use %2 in %3 and has used %4.',
        v.text('name'),
        v.said('limit'),
        v.said('window'),
        v.said('held')
      ),
    'limit-total-hours': v =>
      trans.__(
        'Everybody together may use %1 in %2 and has used %3.',
        v.said('limit'),
        v.said('window'),
        v.said('held')
      ),
    yours: v => trans.__('Yours: %1.', v.list('kernels')),
    'yours-and-more': v => trans.__('Yours: %1 and %2 more.', v.list('kernels'), v.number('more')),
    'ask-for-less': () => trans.__('Ask for less.'),
    'give-some-back': v => trans.__('%1 more is too much; give some back first.', v.said('asked')),
    'room-again': v =>
      trans.__('If nothing is used until then, there is room at %1 UTC.', v.text('at')),
    'amount-gpu': v => trans.__('%1 GPU', v.text('number')),
    'amount-gpus': v => trans.__('%1 GPUs', v.text('number')),
    'amount-kernel': v => trans.__('%1 kernel', v.text('number')),
    'amount-kernels': v => trans.__('%1 kernels', v.text('number')),
    'amount-hour': v => trans.__('%1 GPU-hour', v.text('number')),
    'amount-hours': v => trans.__('%1 GPU-hours', v.text('number')),
    'amount-day': v => trans.__('%1 day', v.text('number')),
    'amount-days': v => trans.__('%1 days', v.text('number')),
    'amount-memory': v => trans.__('%1', v.bytes('amount')),
    // Other words of a broker.
    'did-not-start': () => trans.__('The kernel could not start.'),
    'most-kernels': v =>
      trans.__(
        'You have %1 kernels that hold or wait for a share, which is the most that the broker takes of one user; end some.',
        v.number('count')
      ),
    'too-many-kernels': () =>
      trans.__('You have too many kernels, on all of your servers; end some of them.'),
    'no-new-shares': () =>
      trans.__(
        'The administrator gives out no new shares for now. What runs goes on; try again later, or start without a GPU.'
      ),
    'no-new-shares-here': () =>
      trans.__(
        'The administrator of this machine gives out no new shares for now. What runs goes on; try again later, or start without a GPU.'
      ),
    'memory-not-known': v =>
      trans.__(
        '%1 cannot be held against the limits here: how much memory a GPU has is not known. Tell the administrator.',
        v.size('size')
      ),
    'waits-for-turn': () =>
      trans.__('It waits for its turn: those who hold or used less come first.'),
    'ended-in-line': () => trans.__('The kernel was ended while it waited for its turn.'),
    'last-pod-not-known': () =>
      trans.__('The cluster has not told yet what became of the last pod.'),
    'share-looked-for': v => trans.__('Its share is looked for: %1', v.said('why')),
    'broker-reads-on': v =>
      trans.__('The broker was started again and reads on: %1', v.said('why')),
    'server-stopped': v => trans.__('Its server has stopped: %1', v.said('why')),
    'leaves-its-gpu': () => trans.__('Its server has stopped: the kernel leaves its GPU.'),
    'ended-with-server': () =>
      trans.__(
        'Its server stopped while the kernel had its share: the kernel was ended, and its variables are gone.'
      ),
    'ended-without-server': () =>
      trans.__('The kernel ended while its server was away, and its variables are gone.'),
    'run-notebook-again': () => trans.__('Run the notebook again.'),
    'nothing-kept-in-place': () => trans.__('This JupyterHub keeps no variables in place.'),
    'server-did-not-return': v =>
      trans.__('Its server did not come back for %1: the kernel was ended.', v.span('after')),
    'did-not-leave-in-time': () =>
      trans.__(
        'Its idle share was promised to somebody who waits, and the kernel did not leave its GPU in time: it was ended, and its variables are gone.'
      ),
    'broker-failed': () =>
      trans.__('The broker met an error of its own; its log says more. Try again.'),
    'runs-in-other-process': () =>
      trans.__('Another process of your server runs this kernel; end it there first.'),
    'taken-by-other-process': () =>
      trans.__('Another process of your server has taken this kernel over.'),
    'not-to-be-taken-over': () =>
      trans.__('The kernel has ended, or had not come up: it cannot be taken over.'),
    'share-being-taken': () =>
      trans.__("The kernel's share is being taken; try again in a moment."),
    'share-being-changed': () =>
      trans.__("The kernel's share is being changed; try again in a moment."),
    'ended-meanwhile': () => trans.__('The kernel was ended meanwhile.'),
    'starts-or-waits': () => trans.__('The kernel starts, or waits for its share; try again then.'),
    'part-of-its-pod': () =>
      trans.__("The kernel's share is part of its pod; it cannot be given back."),
    'has-no-such-kernel': () => trans.__('Your server has no such kernel.'),
    'not-come-up': () => trans.__('The kernel has not come up.'),
    'broker-away-here': v =>
      trans.__(
        'The broker of this machine does not answer on %1. What runs goes on; what starts waits for it. Ask your administrator, or try again.',
        v.text('path')
      ),
    'broker-away': v =>
      trans.__(
        'The broker of this cluster does not answer at %1. What runs goes on; what starts waits for it. It is tried again.',
        v.text('url')
      ),
    'broker-not-trusted': v =>
      trans.__(
        'The broker of this cluster does not answer at %1: its certificate is signed by nobody whom this server trusts (SSL_CERT_FILE). What runs goes on; what starts waits for it. It is tried again.',
        v.text('url')
      ),
    'broker-just-started': () =>
      trans.__('The broker has just started and reads what runs in the cluster; ask again.'),
    'hub-away': () =>
      trans.__(
        'The JupyterHub does not answer, so it is not known who asks. Try again in a minute, or ask your administrator.'
      ),
    'hub-away-for-long': () =>
      trans.__(
        'The JupyterHub has not answered for too long, so it is not known any more who asks. Ask your administrator.'
      ),
    'hub-away-nothing-new': () =>
      trans.__(
        'The JupyterHub does not answer, so nothing new is started. What runs goes on; try again in a minute.'
      ),
    'hub-knows-no-token': () =>
      trans.__(
        "The JupyterHub does not know this token, or has taken it back. Start your server again from the Hub's page."
      ),
    'to-explore': () => trans.__('To explore data and build models'),
    'to-train-small': () => trans.__('To train small models'),
    'to-train': () => trans.__('To train with all of its memory'),
    'to-do-without': () => trans.__('For work that needs none')
  };
}
