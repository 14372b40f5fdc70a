"""All sentences that have a code, in English.

A placeholder is a name and the kind of its value; without a kind it is text:

=========== ==========================================================
``size``    a size, such as ``1/4``
``number``  a number
``bytes``   an amount of memory in bytes
``span``    a length of time in seconds
``percent`` a part of a whole, from 0 to 1
``clock``   a moment, as an aware datetime
``said``    another sentence, or somebody else's words
``list``    several of these
=========== ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TABLE"]

TABLE: Mapping[str, str] = {
    # -- what becomes of a kernel
    "waiting-interrupted": "Waiting was interrupted.",
    "place-given-up": "The place in the queue was given up.",
    "cell-asks-again": "Running a cell asks for the GPU again.",
    "kept-until-next-cell": "The variables are kept; the next cell takes the share back.",
    "saved-until-next-cell": "The variables are saved; the next cell brings them back.",
    "next-cell-starts-anew": "The next cell starts a new kernel without variables.",
    "server-started-again": (
        "The Jupyter server was started again; the next cell brings the variables back."
    ),
    "cell-was-run": "a cell was run",
    "has-ended": "The kernel has ended.",
    "was-shut-down": "The kernel was shut down.",
    "restarts": "The kernel restarts.",
    "was-ended": "The kernel was ended.",
    "all-variables": "all variables",
    "more": "{number:number} more",
    # -- why its share goes back, or stays
    "unused": "No cell since {since:clock}.",
    "unused-without-use": (
        "No cell since {since:clock}, GPU use {use:percent}, no background work."
    ),
    "unused-without-use-of-all": (
        "No cell since {since:clock}, GPU use {use:percent} of the whole GPU, no background work."
    ),
    "unused-use-unknown": "No cell since {since:clock}, GPU use not known, no background work.",
    "works": "No cell runs, but the kernel works: {what:list}.",
    "use": "GPU use {use:percent}",
    "use-of-all": "GPU use {use:percent} of the whole GPU",
    "use-unknown": "GPU use not known",
    "cell-runs": "a cell runs",
    "somebody-uses": "somebody uses it",
    "share-stays": "The share stays.",
    "share-stays-for-variables": "The share stays: giving it back would lose {lost:list}.",
    "no-share": "This kernel has no share of a GPU.",
    "kept-as-asked": "It is kept as you asked, and goes back then if it is not used.",
    "cell-takes-back": "Running a cell takes the share back.",
    "ends-after-release": "The kernel ends {after:span} after its share went back.",
    "goes-for-others": (
        "Somebody waits for a share; this one goes back after {after:span} without use."
    ),
    "taken-for-others": "This share was taken for others, as it was not given back in time.",
    "goes-after": "It goes back after {after:span} without use.",
    "seldom-soon": "After {after:span} without use, a notebook seldom goes on soon.",
    "seldom-soon-here": (
        "This notebook usually pauses {usual:span}; after {after:span} it seldom goes on soon."
    ),
    "never-goes": "This share does not go back by itself.",
    "not-kept-so-stays": "Its variables could not be kept, so the share stays.",
    "goes-if-wanted": "It goes back when somebody waits, after {after:span} unused.",
    "soon-so-stays": "This notebook usually goes on soon, so the share stays.",
    # -- how far something is
    "bringing-back": "Bringing the variables back: {time:span} so far.",
    "bringing-back-of": "Bringing the variables back: {done:bytes}, {time:span} so far.",
    "saving": "Saving the variables: {time:span} so far.",
    "saving-of": "Saving the variables: {done:bytes}, {time:span} so far.",
    "moving-away": "Moving the GPU's memory away: {time:span} so far.",
    "moving-away-of": "Moving the GPU's memory away: {done:bytes}, {time:span} so far.",
    "moving-back": "Moving the GPU's memory back: {time:span} so far.",
    "moving-back-of": "Moving the GPU's memory back: {done:bytes}, {time:span} so far.",
    # -- what it waits for, and what can never be had
    "needs-room": (
        "It needs {need:bytes} of one GPU; the emptiest has {room:bytes} of {whole:bytes} free."
    ),
    "needs-room-of-each": (
        "It needs {need:bytes} of each of {count:number} GPUs; the emptiest has {room:bytes} of "
        "{whole:bytes} free."
    ),
    "earlier-first": "Kernels that came earlier get that room first.",
    "instances-in-use": "{busy:number} of {all:number} instances {profile} are in use.",
    "gpus-changed": "The GPUs have changed.",
    "one-instance-only": (
        "{size:size} cannot be had here: a program can use one MIG instance only."
    ),
    "no-such-profile": "No GPU here has a MIG profile {profile}; there are {profiles:list}.",
    "no-mig": "No GPU here has a MIG profile {profile}; none is in MIG mode.",
    "more-than-largest": ("{need:bytes} is more than the largest GPU here ({largest:bytes})."),
    "less-than-a-byte": (
        "{size:size} is less than one byte of a GPU here ({largest:bytes}); ask for more."
    ),
    "all-split": (
        "{size:size} cannot be had here: all GPUs are split into MIG instances; ask for one."
    ),
    "one-such-gpu": "{size:size} needs {count:number} GPUs; this machine has 1 such GPU.",
    "few-such-gpus": (
        "{size:size} needs {count:number} GPUs; this machine has {number:number} such GPUs."
    ),
    "no-place": "The cluster has no place for it: {cause}.",
    "scheduler-silent": (
        "The scheduler {scheduler} has said nothing about the kernel's pod yet. If this lasts, "
        "tell the administrator that it may not run."
    ),
    "kueue-waits": "It waits for admission by Kueue, queue {queue}: {cause}.",
    "kueue-quota": (
        "It waits for admission by Kueue, queue {queue}: the quota is used up, it lacks {needed}."
    ),
    "kueue-never": (
        "It waits for admission by Kueue, queue {queue}, which has never more than {most} of "
        "{resource}. Choose a smaller size, or tell the administrator."
    ),
    "kueue-silent": (
        "It waits for admission by Kueue, queue {queue}, which has not said why. If this lasts, "
        "tell the administrator that there may be no such LocalQueue, or that Kueue may not run."
    ),
    "no-place-in-time": (
        "The kernel has waited for its place as long as the administrator allows "
        "(c.KubernetesEngine.longest_wait). Start it again later, or choose a smaller size."
    ),
    "share-not-confirmed": (
        "The cluster had not confirmed by then that the share is free; it is asked until it does."
    ),
    "outcome-unknown": (
        "The cluster has not answered yet what became of the kernel's last change. Its share is "
        "asked for when that is known."
    ),
    "node-prepares": (
        "The node {node} is still preparing the kernel's container: it pulls the image, or mounts "
        "volumes."
    ),
    "node-says": "It says ({reason}): {cause}.",
    "node-too-slow": (
        "The node has not brought the kernel up in the time that the administrator allows "
        "(c.KubernetesEngine.node_patience). Try again, or tell the administrator."
    ),
    "gpu-not-told": (
        "The kernel's pod is on the node {node}, but nothing in the cluster says which GPU it has. "
        "If this lasts, tell the administrator."
    ),
    # -- why there is no GPU
    "way-out": (
        "Choose size 0 for a kernel without a GPU, or set JUPYTER_GPU_SHARE_SIMULATE=2xA100-80GB "
        "to simulate GPUs."
    ),
    "driver-sees-none": "The NVIDIA driver is here but sees no GPU.",
    "none-visible": (
        "The server was started with {name}={value}, which leaves it no GPU; start it without."
    ),
    "no-driver-library": (
        "No NVIDIA GPU was found on this machine: NVIDIA's library libnvidia-ml.so.1 is not "
        "installed."
    ),
    "driver-not-loaded": "NVIDIA's driver is not loaded; load it (nvidia-smi says more).",
    "driver-updated": (
        "NVIDIA's driver was updated under the running system: its library and its kernel "
        "module are of different versions. Restart the machine, or load the module anew."
    ),
    "driver-not-asked": "NVIDIA's driver cannot be asked for GPUs: {cause}.",
    "driver-silent": "NVIDIA's driver does not answer: {cause}. Check nvidia-smi.",
    "gpu-without-memory": "GPU {index:number} has no memory of its own that could be shared out.",
    "gpu-silent": (
        "GPU {index:number} does not answer ({cause}) and is not offered; nvidia-smi says more."
    ),
    "gpu-gone": "{gpu} is not there any more; start the kernel again.",
    # -- why a kernel did not start, or has ended
    "exit-code": "The kernel's process ended with exit code {code:number}.",
    "exit-signal": "The kernel's process was ended by {name}.",
    "memory-short": "The machine may have run out of memory.",
    "no-process": "The kernel does not run.",
    "not-watched": "The kernel cannot be watched any more: {cause:said}",
    "command-not-run": (
        "The kernel's command {command} cannot be run: {cause}. Check argv and cwd of its "
        "kernelspec."
    ),
    "variables-gone": (
        "The variables that were saved are gone: somebody or something has removed their file "
        "from the server's disk. Restart the kernel to go on without them."
    ),
    "variables-not-back": (
        "The variables could not be given back to the kernel: {cause:said} They are still kept; "
        "run a cell to try again, or restart the kernel to go on without them."
    ),
    "no-answer": (
        "The kernel did not answer within {patience:number} s. An ipykernel older than 7.3 "
        "cannot answer an encrypted connection; otherwise raise "
        "GpuShareProvisioner.start_timeout."
    ),
    "ended-before-answer": (
        "The kernel ended before it answered: {cause:said} What it printed last is in the log of "
        "the Jupyter server."
    ),
    "server-stops": "The Jupyter server stops; no kernel starts any more.",
    # -- why a kernel in a pod did not start, or has ended
    "image-not-had": "The image {image} cannot be had ({reason}): {cause}.",
    "image-by-name": "Check its name, or choose another kernel.",
    "image-later": "Try again later, or choose another kernel.",
    "container-not-made": "The node could not make the kernel's container ({reason}): {cause}.",
    "tell-administrator": "Tell the administrator.",
    "node-tries-again": "The node tries again.",
    "put-out": (
        "The node put the kernel out: {cause}. Restart it; a larger memory request makes this "
        "less likely."
    ),
    "put-out-for-room": (
        "The node put the kernel out: it was short of memory or disk. Restart it; a larger "
        "memory request makes this less likely."
    ),
    "longest-life": (
        "The kernel reached the longest life that the administrator allows "
        "(c.KubernetesEngine.longest_life). Restart it."
    ),
    "node-lost-or-down": "The kernel's node was lost or shut down ({reason}). Restart it.",
    "node-without-room": "The node had no room after all ({reason}): {cause}. Try again.",
    "pod-ended": "The kernel's pod has ended ({cause}).",
    "pod-ended-with-code": "The kernel's pod has ended with code {code:number}.",
    "pod-ended-with-code-said": ("The kernel's pod has ended with code {code:number}: {cause}."),
    "kueue-preempted": (
        "Kueue has given the kernel's quota in the queue {queue} to others: they have a higher "
        "priority, or the quota is theirs."
    ),
    "kueue-stopped": (
        "Kueue's queue {queue}, or the kernel's place in it, was stopped by an administrator. Ask "
        "when it goes on."
    ),
    "kueue-put-out": "Kueue took the kernel out of the queue {queue}: {cause}.",
    "restart-queues": "Restart it to queue again.",
    "holder-ended": (
        "What held the kernel's share has ended on its node, so the kernel was ended. Restart "
        "it to queue for another."
    ),
    "share-taken": (
        "The kernel's share was taken away in the cluster (what held it was deleted, by an "
        "administrator or by the scheduler), so the kernel was ended. Restart it to queue for "
        "another."
    ),
    "no-memory": (
        "The kernel was ended for want of memory (of the machine, not of the GPU). Restart it "
        "and use less at a time, or ask for more memory."
    ),
    "no-memory-in-limit": (
        "The kernel was ended for want of memory, its limit is {limit} (of the machine, not "
        "of the GPU). Restart it and use less at a time, or ask for more memory."
    ),
    "pod-told-to-end": (
        "The kernel's pod was told to end from outside. Restart the kernel to get a new one."
    ),
    "could-not-run": "The kernel could not run: {cause}.",
    "ended-by-signal": "The kernel was ended by {name}.",
    "ended-with-code": "The kernel ended with code {code:number}.",
    "beside-failed": (
        "The container {name} beside the kernel has failed with code {code:number}. Tell the "
        "administrator."
    ),
    "beside-failed-said": (
        "The container {name} beside the kernel has failed with code {code:number}: {cause}. "
        "Tell the administrator."
    ),
    "image-not-run": ("The image cannot run the kernel ({cause}). It needs Python with ipykernel."),
    "node-lost-it": "The kernel's node has lost it, as after a reboot. Restart it.",
    "pod-killed": "The kernel's pod was killed from outside (SIGKILL).",
    "pod-deleted": (
        "The kernel's pod was deleted in the cluster, by an administrator or by the "
        "scheduler. Restart the kernel to get a new one."
    ),
    "share-reclaimed": (
        "The kernel's share was reclaimed for work of higher priority. Restart it to queue "
        "for another."
    ),
    "pod-evicted-for-work": (
        "The kernel's pod was evicted, as when a node is emptied for maintenance. Restart it."
    ),
    "node-out-of-service": ("The kernel's node was lost, or taken out of service. Restart it."),
    "node-gone": "The kernel's node is gone. Restart it.",
    "gpu-out-of-service": "The kernel's GPU was taken out of service. Restart it.",
    "pod-evicted": "The kernel's pod was evicted ({reason}). Restart it.",
    # -- why it is being ended while its variables can be saved
    "removed-by-eviction": (
        "The cluster took the kernel's pod away (eviction, as when its node is drained)."
    ),
    "removed-for-work": "The cluster took the kernel's pod away for work of higher priority.",
    "removed-by-scheduler": (
        "The cluster took the kernel's pod away, most likely for other work: its priority "
        "allows that."
    ),
    "removed-from-node": "The cluster took the kernel's pod away: its node is out of service.",
    "removed-from-gpu": "The cluster took the kernel's pod away: its GPU is out of service.",
    "removed-by-node": (
        "The kernel's node ended its pod, as when it shuts down or is short of memory or disk."
    ),
    "removed-by-other": "The cluster took the kernel's pod away ({reason}).",
    "removed-by-deletion": (
        "The kernel's pod was deleted in the cluster, by an administrator or another program."
    ),
    "variables-are-saved": "Its variables are being saved.",
    "variables-come-back": (
        "The variables are saved and come back with the next cell, in a new pod."
    ),
    "variables-lost": "Lost: {lost:list}.",
    "cell-did-not-end": "a cell ran that did not end when it was interrupted.",
    "no-time-to-save": "that took longer than the time that was left, {grace:span}.",
    "interrupted-for-saving": (
        "The running cell is interrupted, so that the variables can be saved."
    ),
    "node-lost": "The kernel's node was lost. Restart it to get another place.",
    # -- why something cannot be done now
    "cell-runs-now": "A cell runs; interrupt it or wait for its end.",
    "cell-run-just-now": "A cell was run just now; the share stays.",
    "not-asked": "A cell was run just now, so the kernel was not asked.",
    "wanted-just-now": "The kernel was wanted just now; nothing was given back.",
    "ended-just-now": "The kernel has just ended.",
    "ended-restart": "The kernel has ended; restart it.",
    "share-just-came": "The kernel has got its share just now; try again.",
    "nothing-to-ask": "The kernel holds no share now, so it cannot be asked.",
    "share-just-came-goes-on": (
        "The share has come just now; the kernel goes on with it. Try again in a moment."
    ),
    "nothing-to-give-back": "The kernel holds no share that could be given back now.",
    "release-would-lose": (
        "Giving the share back now would lose {lost:list}; nothing was changed."
    ),
    "resize-would-lose": (
        "Changing the size to {size:size} now would lose {lost:list}; nothing was changed."
    ),
    "allow-the-loss": "Save what you need, then allow the loss ({how}).",
    "works-now": "The kernel works: {what:list}.",
    "resize-would-restart": (
        "Changing the size to {size:size} restarts the kernel and all variables are lost; allow "
        "that with lose_variables."
    ),
    "not-resized": "The size could not become {size:size}: {why:said}",
    "no-room-to-resize": "The size cannot become {size:size} now: {why:said}",
    "cannot-come-back": "The kernel cannot come back with {size:size}.",
    "lives-on": (
        "The kernel lives on, and its variables with it; it cannot come back with {size:size}. "
        "Run a cell first, then change the size."
    ),
    "uses-too-much": (
        "The kernel uses {used:bytes} of its GPU, which is more than {size:size} has "
        "({has:bytes}). Free some of it, then try again."
    ),
    "no-room": "Its GPU has no room for {size:size}.",
    "others-were-faster": ("Others were faster: its GPU has no room for {size:size} any more."),
    "keep-limit": "A share can be kept for {hours:number} hours at most.",
    "keep-over": "keep_until is over already; null ends the keeping.",
    "not-saved": "The variables could not be saved: {why:said}",
    "cannot-be-saved": "The variables cannot be saved: {why:said}",
    "cannot-be-asked": "The kernel cannot be asked: {why:said}",
    "too-large": "The variables take {size:bytes}; at most {limit:bytes} are kept here.",
    "only-python-keeps": "Only kernels of Python can keep their variables.",
    "only-python-limits": "Only kernels of Python can be given other limits.",
    "not-moved-away": "The GPU's memory could not be moved away: {why:said}",
    "no-kernelspec": "There is no kernelspec {name}.",
    "kernelspec-names-size": (
        "Kernels of the kernelspec {name} start with the size {size:size} that it names; choose "
        "another kernelspec for another size."
    ),
    "kernelspec-without-share": (
        "Kernels of the kernelspec {name} start without a share of a GPU; choose no size for "
        "them, or another kernelspec."
    ),
    "runs-already": "That kernel runs already; change its size with PATCH.",
    "no-such-kernel": "This server runs no kernel with that id on a share of a GPU.",
    "not-logged-in": "You are not logged in to this server.",
    "no-right": "You are not logged in to this server, or may not use gpu_share.",
    "nothing-here": (
        "There is nothing at this address, or the request came from the page of another site."
    ),
    "server-failed": "The server met an error; its log says more.",
    # -- sizes
    "not-a-size": (
        "{text} is not a size; write a fraction (1/4), memory (10GiB), a MIG profile "
        "(mig-1g.10gb), or 0 for no GPU"
    ),
    "size-too-long": (
        "{text} is too long for a size; write a fraction (1/4), memory (10GiB), a MIG profile "
        "(mig-1g.10gb), or 0 for no GPU"
    ),
    "size-negative": (
        "{text} is negative; write a fraction (1/4), memory (10GiB), a MIG profile "
        "(mig-1g.10gb), or 0 for no GPU"
    ),
    "size-by-zero": (
        "{text} divides by zero; write a fraction (1/4), memory (10GiB), a MIG profile "
        "(mig-1g.10gb), or 0 for no GPU"
    ),
    "size-of-no-gpu": "{text} asks for no GPU at all; write 0 for that",
    "size-of-no-gpu-often": "{text} asks for no GPU several times; write 0",
    "size-of-many-gpus": ("{text} asks for {count:number} GPUs; one kernel can have 64 at most"),
    "size-of-no-memory": "{text} is no memory at all; write 0 for a kernel without a GPU",
    "size-not-in-bytes": "{text} is not a whole number of bytes",
    "size-above-one": "{text} is more than one GPU",
    "size-above-one-here": ("{text} is more than one GPU; the largest size here is {largest:size}"),
    "size-above-one-whole": (
        "{text} is more than one GPU; for {count:number} whole GPUs write {size:size}"
    ),
    "size-above-one-whole-here": (
        "{text} is more than one GPU; for {count:number} whole GPUs write {size:size}; the "
        "largest size here is {largest:size}"
    ),
    "size-to-be-named": (
        "A size has to be named here, as the administrator's rules exclude all that are offered; "
        "the largest size here is {largest:size}"
    ),
    "size-not-offered": "{size:size} is not offered here; choose one of {sizes:list}",
    "no-size-offered": "{size:size} is not offered here; ask the administrator",
    "zero-excluded": "A kernel without a GPU cannot be chosen here; name a size above 0",
    "profiles-excluded": "MIG profiles cannot be chosen here; name a fraction or memory",
    "one-gpu-at-most": ("{size:size} asks for {count:number} GPUs; a kernel has one GPU at most"),
    "gpus-at-most": (
        "{size:size} asks for {count:number} GPUs; a kernel has {most:number} GPUs at most"
    ),
    "size-too-large": (
        "{size:size} is more than a kernel may have; the largest size here is {largest:size}"
    ),
    "size-too-small": (
        "{size:size} is less than is given out; the smallest size here is {smallest:size}"
    ),
    "total-memory-at-most": (
        "With {size:size} your kernels would hold {total:bytes}; {limit:bytes} is the limit "
        "here. Shut down one, or choose a smaller size"
    ),
    "total-gpus-at-most": (
        "With {size:size} your kernels would hold {total} GPUs; {limit} GPUs is the limit here. "
        "Shut down one, or choose a smaller size"
    ),
    # -- limits of the broker: a page tells them by the beginning of their codes
    "limit-user-has": "{name} may have {limit:said} and now has {held:said}.",
    "limit-own-has": (
        "By your own configuration {name} may have {limit:said} and now has {held:said}."
    ),
    "limit-group-has": "Group {name} may have {limit:said} and now has {held:said}.",
    "limit-total-has": "Everybody together may have {limit:said} and now has {held:said}.",
    "limit-user-never": "{asked:said} is more than {name} may have: {limit:said}.",
    "limit-own-never": (
        "{asked:said} is more than {name} may have by your own configuration: {limit:said}."
    ),
    "limit-group-never": "{asked:said} is more than group {name} may have: {limit:said}.",
    "limit-total-never": "{asked:said} is more than everybody together may have: {limit:said}.",
    "limit-user-hours": "{name} may use {limit:said} in {window:said} and has used {held:said}.",
    "limit-own-hours": (
        "By your own configuration {name} may use {limit:said} in {window:said} and has used "
        "{held:said}."
    ),
    "limit-group-hours": (
        "Group {name} may use {limit:said} in {window:said} and has used {held:said}."
    ),
    "limit-total-hours": (
        "Everybody together may use {limit:said} in {window:said} and has used {held:said}."
    ),
    "yours": "Yours: {kernels:list}.",
    "yours-and-more": "Yours: {kernels:list} and {more:number} more.",
    "ask-for-less": "Ask for less.",
    "give-some-back": "{asked:said} more is too much; give some back first.",
    "room-again": "If nothing is used until then, there is room at {at} UTC.",
    "amount-gpu": "{number} GPU",
    "amount-gpus": "{number} GPUs",
    "amount-kernel": "{number} kernel",
    "amount-kernels": "{number} kernels",
    "amount-hour": "{number} GPU-hour",
    "amount-hours": "{number} GPU-hours",
    "amount-day": "{number} day",
    "amount-days": "{number} days",
    "amount-memory": "{amount:bytes}",
    # -- other words of a broker
    "did-not-start": "The kernel could not start.",
    "most-kernels": (
        "You have {count:number} kernels that hold or wait for a share, which is the most that the "
        "broker takes of one user; end some."
    ),
    "too-many-kernels": "You have too many kernels, on all of your servers; end some of them.",
    "no-new-shares": (
        "The administrator gives out no new shares for now. What runs goes on; try again later, or "
        "start without a GPU."
    ),
    "no-new-shares-here": (
        "The administrator of this machine gives out no new shares for now. What runs goes on; try "
        "again later, or start without a GPU."
    ),
    "memory-not-known": (
        "{size:size} cannot be held against the limits here: how much memory a GPU has is not "
        "known. Tell the administrator."
    ),
    "waits-for-turn": "It waits for its turn: those who hold or used less come first.",
    "ended-in-line": "The kernel was ended while it waited for its turn.",
    "last-pod-not-known": "The cluster has not told yet what became of the last pod.",
    "share-looked-for": "Its share is looked for: {why:said}",
    "broker-reads-on": "The broker was started again and reads on: {why:said}",
    "server-stopped": "Its server has stopped: {why:said}",
    "leaves-its-gpu": "Its server has stopped: the kernel leaves its GPU.",
    "ended-with-server": (
        "Its server stopped while the kernel had its share: the kernel was ended, and its "
        "variables are gone."
    ),
    "ended-without-server": (
        "The kernel ended while its server was away, and its variables are gone."
    ),
    "run-notebook-again": "Run the notebook again.",
    "nothing-kept-in-place": "This JupyterHub keeps no variables in place.",
    "server-did-not-return": (
        "Its server did not come back for {after:span}: the kernel was ended."
    ),
    "did-not-leave-in-time": (
        "Its idle share was promised to somebody who waits, and the kernel did not leave its GPU "
        "in time: it was ended, and its variables are gone."
    ),
    "broker-failed": "The broker met an error of its own; its log says more. Try again.",
    "runs-in-other-process": (
        "Another process of your server runs this kernel; end it there first."
    ),
    "taken-by-other-process": "Another process of your server has taken this kernel over.",
    "not-to-be-taken-over": ("The kernel has ended, or had not come up: it cannot be taken over."),
    "share-being-taken": "The kernel's share is being taken; try again in a moment.",
    "share-being-changed": "The kernel's share is being changed; try again in a moment.",
    "ended-meanwhile": "The kernel was ended meanwhile.",
    "starts-or-waits": "The kernel starts, or waits for its share; try again then.",
    "part-of-its-pod": "The kernel's share is part of its pod; it cannot be given back.",
    "has-no-such-kernel": "Your server has no such kernel.",
    "not-come-up": "The kernel has not come up.",
    "broker-away-here": (
        "The broker of this machine does not answer on {path}. What runs goes on; what starts "
        "waits for it. Ask your administrator, or try again."
    ),
    "broker-away": (
        "The broker of this cluster does not answer at {url}. What runs goes on; what starts waits "
        "for it. It is tried again."
    ),
    "broker-not-trusted": (
        "The broker of this cluster does not answer at {url}: its certificate is signed by nobody "
        "whom this server trusts (SSL_CERT_FILE). What runs goes on; what starts waits for it. It "
        "is tried again."
    ),
    "broker-just-started": (
        "The broker has just started and reads what runs in the cluster; ask again."
    ),
    "hub-away": (
        "The JupyterHub does not answer, so it is not known who asks. Try again in a minute, or "
        "ask your administrator."
    ),
    "hub-away-for-long": (
        "The JupyterHub has not answered for too long, so it is not known any more who asks. Ask "
        "your administrator."
    ),
    "hub-away-nothing-new": (
        "The JupyterHub does not answer, so nothing new is started. What runs goes on; try again "
        "in a minute."
    ),
    "hub-knows-no-token": (
        "The JupyterHub does not know this token, or has taken it back. Start your server again "
        "from the Hub's page."
    ),
    "to-explore": "To explore data and build models",
    "to-train-small": "To train small models",
    "to-train": "To train with all of its memory",
    "to-do-without": "For work that needs none",
}
