---@meta uffd.core
-- Types of the C part, csrc/lua, and of the handles' methods. Programs require "uffd", which documents its functions.
-- luacheck: ignore 212 241, no max line length

---A set of named bits: a name, names joined by "|", a list of names, or the kernel's own bits as an integer. A bit
---without a name is an integer in lists that are returned.
---@alias uffd.Mask string|integer|(string|integer)[]

-- uffd.Object

---One userfaultfd: its descriptor, its features, the address space that it serves. Made by `uffd.open` and `uffd.adopt`.
---
---Operations take an absolute address (an integer), or a memory and an offset in it. They return the bytes done; or nil,
---the message, the errno, and the bytes done before it. Errnos: EEXIST the page there is there already (its sleepers have
---been woken); EAGAIN an event waits to be read; ENOENT not mapped or not registered; ESRCH the address space is gone;
---EINVAL alignment, or an operation that this kind of memory does not have; ENOMEM; EFAULT see each.
---
---A closed handle raises, and so does a handle in a forked child.
---@class uffd.Object
local object = {}

---The descriptor, which stays the object's. Polls readable when events wait.
---@return integer fd
function object:fd() end

---`fd`, by the name that LuaSocket asks for.
---@return integer fd
function object:getfd() end

---`fd`, by the name that cqueues asks for.
---@return integer fd
function object:pollfd() end

---Names of the features that are enabled.
---@return (string|integer)[] names
function object:features() end

---Names of the features that this kernel offers; empty if it cannot be known (an adopted descriptor).
---@return (string|integer)[] names
function object:available() end

---Whether features are enabled, and whether this kernel offers them.
---@param features uffd.Mask
---@return boolean enabled
---@return boolean available
function object:has(features) end

---How the descriptor was made.
---@return "syscall"|"device"|"adopted" route
function object:route() end

---Whether faults of the kernel on the program's behalf (a read(2) into a missing page) give EFAULT instead of events.
---nil: an adopted descriptor does not tell.
---@return boolean? only
function object:user_mode_only() end

---Faults that are queued and unread; and those plus the faults that were read and not yet woken.
---@return integer? pending
---@return integer|string total or the message
---@return integer? errno
function object:pending() end

---Registers `register(memory, modes)`, `register(memory, offset, length, modes)` or `register(address, length, modes)`
---for "missing", "wp" (5.7), "minor" (5.13). Offsets and lengths are whole pages of the memory. Registering again with
---fewer modes changes nothing: unregister first.
---Errors: EINVAL alignment, nothing mapped, no mode, or memory that the mode cannot have (the message says which); EPERM
---a read-only shared mapping, a write-sealed memfd; EBUSY part of it belongs to another userfaultfd; ENOMEM.
---@param target uffd.Memory|integer
---@param offset_or_length integer|uffd.Mask
---@param length_or_modes? integer|uffd.Mask
---@param modes? uffd.Mask
---@return (string|integer)[]? ioctls names of the operations that are offered there
---@return string? message
---@return integer? errno
---@overload fun(self: uffd.Object, target: uffd.Memory, modes: uffd.Mask): (string|integer)[]?, string?, integer?
---@overload fun(self: uffd.Object, address: integer, length: integer, modes: uffd.Mask): (string|integer)[]?, string?, integer?
function object:register(target, offset_or_length, length_or_modes, modes) end

---Unregisters `(memory)`, `(memory, offset, length)` or `(address, length)` and wakes every thread that sleeps there.
---Pages still missing read as zeros from then on. Errors as `register`.
---@param target uffd.Memory|integer
---@param offset_or_length? integer
---@param length? integer
---@return true? done
---@return string? message
---@return integer? errno
function object:unregister(target, offset_or_length, length) end

---Fills pages by copying a string: `copy(memory, offset, data, flags)` or `copy(address, data, flags)`. Zeros are added up
---to the end of the last page, whose size is that of the range as registered through this object. flags: "dontwake",
---"wp" (5.7: arrives write-protected). EFAULT: beyond the file's end.
---@param target uffd.Memory|integer
---@param offset_or_data integer|string
---@param data_or_flags? string|uffd.Mask
---@param flags? uffd.Mask
---@return integer? done bytes, whole pages
---@return string? message
---@return integer? errno
---@return integer? done_before
function object:copy(target, offset_or_data, data_or_flags, flags) end

---Fills pages with zeros: `(memory, offset, length, flags)` or `(address, length, flags)`. Not huge pages (EINVAL).
---flags: "dontwake".
---@param target uffd.Memory|integer
---@param offset_or_length? integer
---@param length_or_flags? integer|uffd.Mask
---@param flags? uffd.Mask
---@return integer? done bytes
---@return string? message
---@return integer? errno
---@return integer? done_before
function object:zeropage(target, offset_or_length, length_or_flags, flags) end

---Maps what the page cache has (memfd, hugetlb): `(memory, offset, length, flags)` or `(address, length, flags)`. Kernel
---5.13. flags: "dontwake", "wp" (6.4). EFAULT: the page cache has no page there.
---@param target uffd.Memory|integer
---@param offset_or_length? integer
---@param length_or_flags? integer|uffd.Mask
---@param flags? uffd.Mask
---@return integer? done bytes
---@return string? message
---@return integer? errno
---@return integer? done_before
object["continue"] = function(self, target, offset_or_length, length_or_flags, flags) end

---Makes every access to the pages raise SIGBUS (EFAULT in system calls): `(memory, offset, length, flags)` or
---`(address, length, flags)`. Kernel 6.6. flags: "dontwake".
---@param target uffd.Memory|integer
---@param offset_or_length? integer
---@param length_or_flags? integer|uffd.Mask
---@param flags? uffd.Mask
---@return integer? done bytes
---@return string? message
---@return integer? errno
---@return integer? done_before
function object:poison(target, offset_or_length, length_or_flags, flags) end

---Moves pages of private anonymous memory in, without copying: `move(target..., source..., length, flags)`, where target
---and source are each an address, or a memory and an offset. Kernel 6.8. flags: "dontwake", "allow_src_holes". ENOENT
---also: a hole in the source; EBUSY: a page shared by fork, or pinned.
---@param target uffd.Memory|integer
---@param ... uffd.Memory|integer|uffd.Mask
---@return integer? done bytes
---@return string? message
---@return integer? errno
---@return integer? done_before
function object:move(target, ...) end

---Write-protects pages, or with false lets them be written again (and wakes): `(memory, offset, length, protect)` or
---`(address, length, protect)`. The range must be registered for "wp". Kernel 5.7. Instead of a boolean: the kernel's
---mode, "wp", "dontwake".
---@param target uffd.Memory|integer
---@param offset_or_length? integer
---@param length_or_protect? integer|boolean|uffd.Mask
---@param protect? boolean|uffd.Mask (default true)
---@return true? done
---@return string? message
---@return integer? errno
function object:writeprotect(target, offset_or_length, length_or_protect, protect) end

---Wakes the threads that sleep on faults in `(memory)`, `(memory, offset, length)` or `(address, length)`: they try again.
---@param target uffd.Memory|integer
---@param offset_or_length? integer
---@param length? integer
---@return true? done
---@return string? message
---@return integer? errno
function object:wake(target, offset_or_length, length) end

---Reads events, in the kernel's order: faults before events that are older. Every fault that was read must be answered or
---woken: it is not told again. A list without items: none came in time.
---Errors: EMFILE a fork's descriptor has no room (the event stays queued); EINVAL a limit on a blocking object.
---@param timeout_ms? integer 0: what is there; -1: for ever (default 0; on a blocking object -1)
---@param most? integer events (default 64)
---@return uffd.Event[]? events
---@return string? message
---@return integer? errno
function object:read(timeout_ms, most) end

---Iterates over events, until none has come for timeout_ms. What waits is read at once, and forks, removals and the like
---come before faults, which cannot be answered before these are read. An error raises.
---@param timeout_ms? integer -1: never ends (default -1)
---@return fun(self: uffd.Object): uffd.Event? next
---@return uffd.Object self
function object:events(timeout_ms) end

---Closes the object: every range is unregistered, sleeping threads go on, and pages still missing read as zeros from then
---on. While a loop uses it, it stays open until the loop is closed. Again: true. Also done by `<close>` and the collector.
---@return true
function object:close() end

---What `object:read` and `object:events` tell.
---@class uffd.Event
---@field type "pagefault"|"fork"|"remap"|"remove"|"unmap"|integer an unknown type is its number
---@field kind? "missing"|"wp"|"minor" pagefault: what to answer with (copy; writeprotect false; continue)
---@field write? boolean pagefault: by a write
---@field address? integer pagefault: as told; remap: from; remove, unmap: start
---@field page? integer pagefault: the page, by the page size of the range as registered through this object
---@field page_size? integer pagefault: bytes
---@field flags? integer pagefault: the kernel's bits
---@field tid? integer pagefault: the thread, with the feature thread_id; else 0
---@field to? integer remap: the new address
---@field length? integer remap, remove, unmap: bytes
---@field object? uffd.Object fork: the child's object, to be closed

-- uffd.Memory

---A mapping of this process that can be served. Made by `uffd.map`. `#memory` is its size. It may be closed while a loop
---serves it, or a resolver reads from it: the mapping stays until they are closed.
---@class uffd.Memory
---@field size integer bytes, whole pages
---@field address integer
---@field page_size integer bytes
---@field kind "anonymous"|"thp"|"memfd"|"hugetlb"|"adopted"|"foreign"
---@field fd integer? the memfd, which stays the memory's
---@field alias uffd.Memory? memfd, hugetlb: a second mapping that is not served, to fill pages through; cannot be served, nor be a source
---@operator len: integer
local memory = {}

---A string of bytes. Missing pages are waited for as in any access. An offset outside raises.
---Errors: EHWPOISON a poisoned page; EFAULT missing and not to be had (user mode only, without a loop that serves it);
---EDEADLK a missing page of a pump that the calling thread drives: it would wait for its own answer.
---@param offset? integer (default 0)
---@param length? integer (default: to the end)
---@return string? data
---@return string? message
---@return integer? errno
function memory:read(offset, length) end

---Writes a string. An offset outside raises. Errors as `read`; what comes before the failing page is written.
---@param offset integer
---@param data string
---@return true? done
---@return string? message
---@return integer? errno
function memory:write(offset, data) end

---Sets every byte of a range. Errors as `write`.
---@param byte integer|string 0 to 255, or one character
---@param offset? integer (default 0)
---@param length? integer (default: to the end)
---@return true? done
---@return string? message
---@return integer? errno
function memory:fill(byte, offset, length) end

---Writes values as `string.pack` does. Errors as `write`.
---@param format string
---@param offset integer
---@param ... any
---@return true? done
---@return string? message
---@return integer? errno
function memory:pack(format, offset, ...) end

---Brings pages in for a system call that is to be given their address: inline, and user-mode-only, it would get EFAULT.
---Pages that are there stay. An offset outside raises. Errors as `read`.
---@param offset? integer (default 0)
---@param length? integer (default: to the end)
---@param write? boolean true: unprotects them as well
---@return true? done
---@return string? message
---@return integer? errno
function memory:prefault(offset, length, write) end

---Discards whole pages that a loop serves: they are absent again, and the next access asks their resolver anew. What was
---written to them is lost, poison too; of shared memory they go for every mapping, of private memory for this one alone.
---An offset outside raises.
---Errors: EINVAL not whole pages, or locked in memory; ENOENT a part that nobody serves (nothing is discarded then);
---EDEADLK from a pump's driver whose objects have event_remove; ECANCELED the loop was closed.
---@param offset? integer (default 0)
---@param length? integer (default: to the end)
---@return true? done
---@return string? message
---@return integer? errno
function memory:discard(offset, length) end

---Reads values as `string.unpack` does; after them, the offset of the first byte that was not used. Errors as `read`.
---@param format string
---@param offset? integer (default 0)
---@return any ...
function memory:unpack(format, offset) end

---Ends the program's use of the memory. Again: true. Also done by `<close>` and the collector.
---@return true
function memory:close() end

-- uffd.Resolver

---What answers faults. Made by the functions of `uffd.resolver`.
---@class uffd.Resolver
---@field size integer bytes that it answers for, from offset 0; math.maxinteger: any
---@field kind string "zero", "bytes", "file", "policy", ...
---@operator len: integer
local resolver = {}

---Ends the program's use of the resolver; what uses it goes on. Again: true. Also done by `<close>` and the collector.
---@return true
function resolver:close() end

---`uffd.ZERO`, `uffd.POISON`, `uffd.LATER` or `uffd.FILE`: an answer of a policy that no contents can be. Prints as its name; equal to
---itself alone.
---@class uffd.Sentinel

---One fault, as a policy sees it. The same table every time.
---@class uffd.Fault
---@field offset integer of the page, in the resolver's own coordinates, bytes
---@field region_offset integer of the page in the region
---@field address integer of the page
---@field page_size integer bytes
---@field cover_offset integer the cover that is wanted (around, prefetch, or neighbours that others wait for):
---@field cover_length integer whole pages in the resolver's coordinates, the faulting one among them
---@field write boolean by a write
---@field wp boolean
---@field minor boolean
---@field prefetch boolean nobody waits for it
---@field tid integer the thread, 0 if unknown
---@field handler integer index of the handler that asks
---@field flags integer the kernel's bits

-- uffd.Loop

---A fault that was read and is not answered yet.
---@class uffd.Waiting
---@field age number seconds since it was read
---@field offset integer in the region
---@field address integer
---@field flags integer the kernel's bits
---@field tid integer the thread, 0 if unknown
---@field handler integer index of its handler
---@field region integer index of the region, 0: none
---@field resolver string its kind

---Regions, the engine that serves them, and statistics. Made by `uffd.serve`. A handle of memory that it serves keeps the
---loop: it is collected when the loop, its regions and their memories have no variable left, with a warning (`warn`)
---unless all of them are complete or removed. A pump loop can be waited on by luv (`fd`),
---cqueues (`pollfd`, `events`, `timeout`) and LuaSocket (`getfd`, `dirty`).
---@class uffd.Loop
local loop = {}

---Adds a region and serves it from now on. Errors as `uffd.serve`.
---@param entry uffd.RegionOptions
---@return uffd.Region? region
---@return string? message
---@return integer? errno
function loop:add(entry) end

---The engine that the loop has, and why.
---@return "threads"|"pump"|"inline" engine
---@return string why
function loop:engine() end

---The placement in force now, and why: "none" also while the processors are too busy for a companion, while prefetch has
---work, and where a thread may not enter SCHED_IDLE. With several handlers it is the first one's; other engines than
---threads have "none".
---@return "companion"|"none" placement
---@return string why
function loop:placement() end

---The regions, in the order in which they were added; removed and completed ones too.
---@return uffd.Region[]
function loop:regions() end

---Fills a range of a region now; returns when it is done. Pages that are there stay.
---Errors: ERANGE; ECANCELED the loop has stopped; ENOENT the region is complete or removed; the resolver's error (those
---pages stay missing, the rest is done).
---@param offset? integer bytes in the region (default 0)
---@param length? integer bytes (default: to the end)
---@param region? uffd.Region|integer a region or its index (default 1)
---@return true? done
---@return string? message
---@return integer? errno
function loop:prefetch(offset, length, region) end

---What a policy has said `uffd.LATER` for has come: the pages of the range that somebody waits for are asked for again at
---once. Without this they are asked again after 20 us to 10 ms. Does not wait. Once too often is harmless.
---Errors: ERANGE; EOWNERDEAD a forked child.
---@param offset? integer bytes in the region (default 0)
---@param length? integer bytes (default: to the end)
---@param region? uffd.Region|integer a region or its index (default 1)
---@return true? done
---@return string? message
---@return integer? errno
function loop:ready(offset, length, region) end

---Lets a loop that was made with `paused` read its objects. Again: true.
---@return true? done
---@return string? message
---@return integer? errno
function loop:start() end

---Fills the rest of every region and unregisters it: the memory is ordinary from then on. The first error is returned, the
---other regions are still tried.
---@return true? done
---@return string? message
---@return integer? errno
function loop:complete() end

---Pump: answers what waits. The calling thread must not itself touch missing pages of the loop.
---Errors: EINVAL another engine; ECANCELED stopped.
---@param timeout_ms? integer how long to wait for something; -1: for ever (default 0)
---@return integer? faults answered
---@return string? message
---@return integer? errno
function loop:step(timeout_ms) end

---Pump: a descriptor that polls readable when `step` has work; it stays the loop's. EINVAL: another engine.
---@return integer? fd
---@return string? message
---@return integer? errno
function loop:fd() end

---`fd`, by the name that LuaSocket asks for.
---@return integer? fd
---@return string? message
---@return integer? errno
function loop:getfd() end

---`fd`, by the name that cqueues asks for.
---@return integer? fd
---@return string? message
---@return integer? errno
function loop:pollfd() end

---What to poll for, as cqueues asks.
---@return "r"
function loop:events() end

---Pump: seconds after which `step` must be called even if the descriptor is silent; nil: no limit.
---@return number? seconds
---@return string? message
---@return integer? errno
function loop:timeout() end

---Whether something is buffered, as LuaSocket asks.
---@return false
function loop:dirty() end

---Counts since the loop was made.
---@return uffd.Stats stats
function loop:stats() end

---The latencies of all faults so far. `region:histogram()` has those of one region.
---@return uffd.Histogram histogram
function loop:histogram() end

---The fault that has waited longest, being in a resolver or put off: for watchdogs. Nothing when none waits.
---@return uffd.Waiting? waiting
function loop:oldest() end

---The loop's first failure, or nothing if there was none.
---@return string? message
---@return integer? errno
function loop:error() end

---Whether the loop's own objects are user mode only. ENOENT: before the first region that needs them.
---@return boolean? only
---@return string? message
---@return integer? errno
function loop:user_mode_only() end

---Iterates over the lines that policies logged with `print` and `uffd.log`, and over the sentence of each failure of the
---loop, and takes them. 256 lines of 504 bytes are kept; how many were lost is told by a line. Lines that were not read
---when the loop is closed go to stderr.
---@return fun(self: uffd.Loop): string?, integer?, "log"|"failure"|nil next a line, the handler that logged it, its kind
---@return uffd.Loop self
function loop:messages() end

---Switches the recording of faults on or off.
---@param on? boolean (default true)
---@param room? integer records that are kept, the first time (default 4096); more are dropped
---@return true? done
---@return string? message
---@return integer? errno
function loop:trace(on, room) end

---Iterates over the records of faults, and takes them.
---@return fun(self: uffd.Loop): uffd.Trace? next
---@return uffd.Loop self
function loop:traces() end

---@class uffd.TraceOptions
---@field [1] string path of the file
---@field format? "auto"|"ndjson"|"csv" auto, the default, is by the ending: .ndjson or .jsonl, .csv
---@field append? boolean true: what the file has stays; several loops may append to one file (default: it is emptied)
---@field room? integer records that may wait to be written, 2 to 16777216 (default 16384); more are lost
---@field loop? integer written as "loop", where several loops share a file (default 0)

---Writes a record of every fault from now on to a file, from a thread that answers no fault. Nil or false ends that, and
---returns when all is written. The fields are those of `uffd.Trace` with kind ("missing", "wp", "minor") and write
---instead of the flags, time (wall clock, seconds) and lost: how many records before this one found no room. A disk that
---is full, and how many records were lost, is a line of `loop:messages()`. Closing the loop writes what is left.
---Errors: EINVAL an ending that tells no format; those of opening the file, and ending, of writing it.
---@param file? string|uffd.TraceOptions a path, or a path and options
---@return true? done
---@return string? message
---@return integer? errno
function loop:trace_to(file) end

---Stops and joins the handlers, wakes everything, unregisters every region. Pages still missing read as zeros from then
---on: `complete` first where they matter. Again: true. Also done by `<close>` and the collector.
---@return true? done
---@return string? message
---@return integer? errno
function loop:close() end

---Counts of a loop. Pages are of their region's page size; latency is from the reading of the message to the wake-up.
---@class uffd.Stats
---@field faults integer messages of faults read: missing + wp + minor
---@field missing integer
---@field wp integer
---@field minor integer
---@field writes integer faults by a write
---@field events integer fork, remap, remove, unmap messages read
---@field zero integer pages installed, by answer:
---@field copied integer
---@field continued integer
---@field moved integer
---@field poisoned integer
---@field unprotected integer pages whose first write was let through
---@field bytes integer installed: zero, copied, continued, moved
---@field prefetched integer pages of those by prefetch and complete
---@field present integer answers for pages that were there already, or came with a neighbour
---@field deferred integer times that a fault was put off
---@field gone integer faults of ranges or address spaces that are no more
---@field errors integer resolvers or installs that failed
---@field policy_calls integer of policies
---@field queue integer faults waiting now
---@field queue_max integer the longest queue so far
---@field latency_count integer faults measured
---@field latency_p50 integer nanoseconds
---@field latency_p99 integer nanoseconds
---@field latency_max integer nanoseconds

---One fault's way through the loop.
---@class uffd.Trace
---@field time_ns integer CLOCK_MONOTONIC at the outcome
---@field latency_ns integer since the message was read
---@field region integer index of the region in `loop:regions()`
---@field offset integer of the page in the region
---@field cover integer bytes that the answer covered
---@field flags integer the kernel's bits of the fault
---@field tid integer
---@field handler integer
---@field answer "zero"|"bytes"|"continue"|"move"|"poison"|"later"|"resolver"
---@field outcome "installed"|"present"|"deferred"|"gone"|"failed" deferred: another record will follow
---@field error? integer the errno of a failure
---@field dropped? integer records that found no room before this one was taken

---A range of memory in a loop. Made by `loop:add` and `uffd.serve`; dead when its loop is closed.
---@class uffd.Region
---@field offset integer in the memory, bytes
---@field length integer bytes
---@field page_size integer bytes
---@field index integer in `loop:regions()`
local region = {}

---@class uffd.PrefetchOptions
---@field ranges? (integer|string)[][] a list of `{ offset, length }` in bytes (default: the whole region)
---@field rate? integer|string bytes a second at most (default: no limit)
---@field background? boolean true: returns a handle at once; false: returns when it is done (default)

---Fills a range now; returns when it is done. With options, fills several ranges, perhaps not faster than a rate, and
---perhaps in the background: faults always first, in the order of the offsets, steps of at most 2 MiB.
---Errors as `loop:prefetch`.
---@param offset? integer|uffd.PrefetchOptions bytes (default 0), or options
---@param length? integer bytes (default: to the end)
---@return true|uffd.Prefetch? done
---@return string? message
---@return integer? errno
function region:prefetch(offset, length) end

---Fills the rest and unregisters it: the memory is ordinary from then on. After an error it goes on being served.
---@return true? done
---@return string? message
---@return integer? errno
function region:complete() end

---Takes the region out of the loop as it is: missing pages read as zeros from then on.
---@return true? done
---@return string? message
---@return integer? errno
function region:remove() end

---Another resolver answers for the region from now on, from the same offset on. Pages that are there stay until they are
---discarded: `memory:discard()`. Waits for policies that are answering.
---Errors: EINVAL a resolver shorter than the region, or one that the memory cannot have; ENOENT the region is complete or
---removed; EBUSY the loop serves forked children; EIO, ETIMEDOUT, ENOMEM from a policy's factory.
---@param other uffd.Resolver
---@return true? done
---@return string? message
---@return integer? errno
function region:set_resolver(other) end

---The latencies of the region's faults so far. When the region is complete or removed its counts stay.
---@return uffd.Histogram histogram
function region:histogram() end

---What a policy has said `uffd.LATER` for has come: see `loop:ready`.
---@param offset? integer bytes (default 0)
---@param length? integer bytes (default: to the end)
---@return true? done
---@return string? message
---@return integer? errno
function region:ready(offset, length) end

---Ranges that are filled in the background. Made by `region:prefetch`; outlives its loop, which ends it.
---@class uffd.Prefetch
local prefetch = {}

---@class uffd.PrefetchStatus
---@field done boolean nothing goes on any more
---@field error? integer the errno of the first failure: the resolver's, or ECANCELED
---@field bytes_wanted integer the ranges, as whole pages
---@field bytes_done integer of those: filled, there already, failed, or not mapped any more

---How far it is.
---@return uffd.PrefetchStatus
function prefetch:status() end

---Waits until it is over: true; false when the time has passed. With the pump engine this does the work.
---Errors: the first failure, as `region:prefetch` tells it; ECANCELED the loop was closed, or the region removed.
---@param timeout_ms? integer -1: for ever (default)
---@return boolean? over
---@return string? message
---@return integer? errno
function prefetch:wait(timeout_ms) end

---Ends the handle, and cancels what is left. Also `__close` and `__gc`.
---@return true
function prefetch:close() end

-- uffd.Image

---What memory is filled from: a stack of layers, opened by `uffd.image`. It is a resolver, too: a loop, layers and
---policies take it as one. `image.resolver` is that resolver alone. `#image` is `image.size`.
---@class uffd.Image
---@field size integer bytes
---@field kind "image"
---@field resolver uffd.Resolver
local stack = {}

---What the whole image is: `length`, `page_size`, `layers`, `pieces`, and how many bytes are `data` and `zero`.
---@return table info
function stack:info() end

---What one layer is: `path`, `format` ("raw", "zstd"), `indexed`, `digest`, `length`, `page_size`, bytes of `data`, `zero`
---and `below`, `file_bytes`, `stream_bytes`, `frames`, `frame_bytes`, `checksums`, `generation`, `time_ns`, `parent`,
---`attributes`, and in hexadecimal `id`, `parent_id`, `uuid` where it has them. Of a file that lies elsewhere also `version`
---(its ETag), `units` (chunks that are kept one by one), `units_there` (in the cache), and what this process did for them:
---`requests`, `retries`, `fetched_bytes`; `latency_ns` is what a read of 64 KiB took while it was opened. ERANGE: there is no such layer.
---@param number integer 1 is the lowest
---@return table? layer
---@return string? message
---@return integer? errno
function stack:layer(number) end

---Iterates over what comes from where: `for offset, length, kind, layer, stream_offset in image:map() do`. kind is "data",
---"zero", or, of one layer alone, "below".
---@param number? integer the layer alone (default: the whole image)
---@return fun(): integer?, integer?, string?, integer?, integer? next
function stack:map(number) end

---Bytes of the image. Raises beyond its end. Errors: EIO damage, with its place.
---@param offset integer
---@param length integer
---@return string? bytes
---@return string? message
---@return integer? errno
function stack:read(offset, length) end

---Puts all of the image into a store, which is left unfinished. Errors: those of reading and of the store; ECANCELED.
---@param store uffd.Store
---@param from_layer? integer what comes from the layers under this one is put as the same as below (default: nothing)
---@param progress? fun(done: integer, total: integer): boolean? false stops it
---@return boolean? ok
---@return string? message
---@return integer? errno
function stack:copy(store, from_layer, progress) end

---Compares the image with the digests of its top layer; without an index, reads all. Errors: ENOMEM; ECANCELED.
---@param sample? integer so many chunks of 64 KiB only
---@param progress? fun(done: integer, total: integer): boolean? false stops it
---@return { offset: integer, length: integer, message: string }[]? problems none: all is well
---@return string? message
---@return integer? errno
function stack:verify(sample, progress) end

---Ends this use; loops and stores that use it keep it open.
---@return true
function stack:close() end

-- uffd.Store

---Where pages go. Made by `uffd.store`. What is put again replaces what was put before. Errors of all functions: those of
---writing, such as ENOSPC; EINVAL a finished store.
---@class uffd.Store
local store = {}

---Puts data. Errors also: EINVAL not whole pages, beyond the end.
---@param offset integer
---@param data string
---@return boolean? ok
---@return string? message
---@return integer? errno
function store:put(offset, data) end

---These bytes are zero. Errors as of `put`.
---@param offset integer
---@param length integer
---@return boolean? ok
---@return string? message
---@return integer? errno
function store:zero(offset, length) end

---These bytes are the same as below. Errors as of `put`; EINVAL nothing is below.
---@param offset integer
---@param length integer
---@return boolean? ok
---@return string? message
---@return integer? errno
function store:below(offset, length) end

---A resolver of a writable store: what was put, and below it the image. It goes on when the store is closed. Errors:
---EINVAL the store is not a writable one; ENOMEM.
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function store:resolver() end

---Puts all that was put into this writable store into another one. Errors: those of reading and putting; EINVAL the
---store is not a writable one.
---@param other uffd.Store
---@return boolean? ok
---@return string? message
---@return integer? errno
function store:seal(other) end

---What was put is on the disk after this, though not yet in its place.
---@return boolean? ok
---@return string? message
---@return integer? errno
function store:flush() end

---The store appears under its name, whole. When it fails, nothing appears, and what was there before stays. Errors also:
---EIO a page could not be put before.
---@return boolean? ok
---@return string? message
---@return integer? errno
function store:finish() end

---Ends the use of it; what is not finished is given up.
---@return true
function store:close() end

-- uffd.WorkingSet

---The pages of an image that a client touched, in the order of touching. Made by `uffd.workingset` and
---`uffd.workingset.load`. It is plain memory: a forked child has a copy of its own. `#set` is `set:count()`.
---@class uffd.WorkingSet
local workingset = {}

---Adds a page at the end, unless it is in the set. Errors: ERANGE beyond the image; EINVAL not at the beginning of a
---page; ENOMEM.
---@param offset integer of the page in the image, bytes
---@param kind? uffd.Mask of its first access: "write", "wp", "minor" (default: a read)
---@return boolean? added
---@return string? message
---@return integer? errno
function workingset:add(offset, kind) end

---Pages in the set.
---@return integer pages
function workingset:count() end

---The index-th page, from 1, in the order of touching. ERANGE: there is none.
---@param index integer
---@return integer? offset bytes
---@return integer|string kind bits: 1 by a write, 2 it was write-protected, 4 the page cache had it; or the message
---@return integer? errno
function workingset:get(index) end

---Iterates over the pages in the order of touching: `for index, offset, kind in set:iterate() do`.
---@return fun(set: uffd.WorkingSet, index: integer): integer?, integer?, integer? next
---@return uffd.WorkingSet set
---@return integer index
function workingset:iterate() end

---What is in it.
---@return uffd.WorkingSetInfo info
function workingset:info() end

---The pages as ranges, by offset, neighbours merged, as `region:prefetch` takes them: a list of `{ offset, length }`, in
---bytes. They are whole pages: the last may reach beyond the end of the image.
---@param limit? integer no more than so many, the first ones
---@return integer[][] ranges
function workingset:ranges(limit) end

---Appends what the other one has more, in its order. Errors: EINVAL of another image or page size; ENOMEM.
---@param other uffd.WorkingSet
---@return true? done
---@return string? message
---@return integer? errno
function workingset:merge(other) end

---Whether it is of this image. EINVAL: it is not, and the message tells the difference. An identity of 0, on either
---side, is not known: the length alone is compared.
---@param length integer of the image, bytes
---@param identity? integer (default 0)
---@return true? done
---@return string? message
---@return integer? errno
function workingset:check(length, identity) end

---Replaces a file as a whole, or leaves it as it was. Errors: EINVAL there is something else than a regular file; those
---of making, writing and renaming it.
---@param path string
---@return true? done
---@return string? message
---@return integer? errno
function workingset:save(path) end

---Frees it. Again: true. Also done by `<close>` and the collector.
---@return true done
function workingset:close() end

---What a working set holds.
---@class uffd.WorkingSetInfo
---@field page_size integer bytes
---@field image_length integer bytes
---@field image_identity integer 0: not known
---@field pages integer
---@field bytes integer of these pages
---@field writes integer pages whose first access was a write
---@field runs integer of neighbouring pages
---@field longest_run integer pages
---@field sequential integer pages touched right after the page before them

-- uffd.Pager

---The supervisor of a pager. Made by `uffd.pager`. It can be waited on by luv (`fd`), cqueues (`pollfd`, `events`,
---`timeout`) and LuaSocket (`getfd`, `dirty`), and stepped when it is readable.
---@class uffd.Pager
local pager = {}

---Serves until all is done: drained, or `once` and the client is gone.
---Errors: ECHILD no worker can be started any more (on_crash has been done); EINTR a second signal, see `on_signals`.
---@return true? done
---@return string? message
---@return integer? errno
function pager:run() end

---Deals with what has come, waiting for it up to timeout_ms. True: it goes on; false: all is done. Errors as `run`.
---@param timeout_ms? integer -1: for ever (default 0)
---@return boolean? goes_on
---@return string? message
---@return integer? errno
function pager:step(timeout_ms) end

---A descriptor that polls readable when `step` has work; it stays the pager's.
---@return integer fd
function pager:fd() end

---`fd`, by the name that LuaSocket asks for.
---@return integer fd
function pager:getfd() end

---`fd`, by the name that cqueues asks for.
---@return integer fd
function pager:pollfd() end

---What to poll for, as cqueues asks.
---@return "r"
function pager:events() end

---Seconds after which `step` must be called even if the descriptor is silent: no limit.
---@return nil
function pager:timeout() end

---Whether something is buffered, as LuaSocket asks.
---@return false
function pager:dirty() end

---From now on SIGHUP reloads, SIGTERM and SIGINT drain, and one of these again ends `run` and `step` at once (EINTR;
---what comes of the clients then is what `close` does); SIGPIPE is ignored. Until the pager is closed. One pager of a
---process has them; another one raises.
function pager:on_signals() end

---Starts a new worker for each, which takes over its clients, without a lost fault.
---@return true? done
---@return string? message
---@return integer? errno
function pager:reload() end

---Opens another image for new clients, in a process of its own; those that are there go on with theirs. A report, "image"
---or "error", tells how that ended. EINVAL the pager has no image; EBUSY another one is being opened
---@param path string|string[] or layers, the lowest first
---@return true? done
---@return string? message
---@return integer? errno
function pager:image(path) end

---Takes no new clients; on_drain says what comes of those that are there. `run` and `step` tell when all is done.
---With the id of a client: that one alone, and its connection brings no other. Errors: EALREADY it drains; ENOENT no such
---client.
---@param client? integer
---@return true? done
---@return string? message
---@return integer? errno
function pager:drain(client) end

---@return uffd.PagerStatus status
function pager:status() end

---The clients that are there.
---@return uffd.ClientStatus[]
function pager:clients() end

---The counts of all clients so far, also of those that are gone; of latencies and the longest queue, the largest.
---@return uffd.Stats
function pager:stats() end

---The pager's figures as OpenMetrics text 1.0, as Prometheus takes it.
---@return string? text nil only without memory
---@return string? message
---@return integer? errno
function pager:metrics() end

---Kills a client's process, if the memory is its own. Errors: ENOENT no such client; ESRCH its process is not known.
---@param client integer its id
---@return true? ok
---@return string? message
---@return integer? errno
function pager:kill(client) end

---Begins to fill all of a client's memory, so that it needs no pager any more. Errors: ENOENT no such client.
---@param client integer its id
---@return true? ok
---@return string? message
---@return integer? errno
function pager:complete(client) end

---Gives a client a name for people. Errors: ENOENT no such client; EINVAL more than 63 bytes, or control characters.
---@param client integer its id
---@param label string
---@return true? ok
---@return string? message
---@return integer? errno
function pager:label(client, label) end

---The worker processes, the newest first.
---@return uffd.WorkerStatus[]
function pager:workers() end

---Closes the sockets and ends the workers. Clients that are still there are killed (on_crash "freeze" cannot outlive the
---supervisor). Again: true. Also done by `<close>` and the collector. Raises in a report of the same pager.
---@return true
function pager:close() end

---@class uffd.WorkerStatus
---@field pid integer
---@field worker integer index
---@field state "starting"|"ready"|"retiring"
---@field clients integer that it serves
---@field since_ns integer when it was started, CLOCK_MONOTONIC

---@class uffd.PagerStatus
---@field clients integer now
---@field workers integer alive
---@field served integer clients that have come so far
---@field refused integer handshakes that were refused so far
---@field restarts integer workers that were replaced
---@field hangs integer workers that hung and were killed
---@field reloads integer begun so far
---@field reloading boolean new workers are started, or old ones still have clients
---@field draining boolean

---A `uffd.Client`, and how it fares.
---@class uffd.ClientStatus: uffd.Client
---@field state "starting"|"served"|"complete"|"frozen"|"gone"
---@field ended? "done"|"exited"|"killed"|"unmapped"|"complete" how it ended; nil: it is there
---@field worker integer index
---@field restarts integer times that another worker took over
---@field since_ns integer when it came, CLOCK_MONOTONIC
---@field oldest_ns integer age of its oldest fault that is not answered yet; 0: none
---@field shared boolean it shares the pages of its image (option share)
---@field stats uffd.Stats of all its workers together
---@field image? string path of its image

---What happened, as the report function of a pager is told.
---@class uffd.Report
---client: one has come. refused: a handshake was refused, text says why. gone: client has ended, text says how.
---complete: its memory is complete. worker: one has started. died: a worker has died, text says of what. retired: a
---worker has ended as it was told to. late: a fault waits for long; text names its page, its age and its resolver.
---error: text. frozen: no worker can be had, on_crash was done. record: a working set was written, text names the file.
---adopted: a client of a supervisor that has died is taken over
---@field kind "client"|"refused"|"gone"|"complete"|"worker"|"died"|"retired"|"late"|"error"|"frozen"|"record"|"adopted"
---@field error? integer an errno
---@field worker integer index
---@field pid? integer of the worker
---@field time_ns integer CLOCK_MONOTONIC
---@field wall_ns integer the same since 1970
---@field client? uffd.ClientStatus
---@field text string a sentence, or ""

-- uffd.Handoff

---Memory of this program that a pager serves. Made by `uffd.handoff`. The memories stay mapped until it is closed.
---@class uffd.Handoff
local handoff = {}

---Fills what is missing by touching it, then unregisters: the memory is ordinary afterwards. Errors: EFAULT, EHWPOISON.
---@return true? done
---@return string? message
---@return integer? errno
function handoff:complete() end

---What the pager prefetches comes from now on, where `fill` was "later". Again: true. Errors: EPIPE the pager has hung
---up; ETIMEDOUT; EINVAL it is complete.
---@return true? done
---@return string? message
---@return integer? errno
function handoff:fill() end

---Hands the same userfaultfd and memory over once more, by a new connection: to the same pager, which goes on with the
---same client, or, when that is gone, to another one. To another pager, pages that were dropped before are pages of its
---image again. Errors: those of `uffd.handoff` from connecting on; EBUSY it is another pager, and the one that serves it
---lives; EINVAL it is complete.
---@param socket string path of the pager's front door
---@return true? done
---@return string? message
---@return integer? errno
function handoff:attach(socket) end

---Its userfaultfd, which the pager reads: features may be asked for, pages filled. Closed with the handoff.
---@return uffd.Object object
function handoff:object() end

---Ends it: pages that are still missing read as zeros from then on. Again: true. Also done by `<close>` and the collector.
---@return true
function handoff:close() end

-- uffd.core

---What `uffd.probe` tells.
---@class uffd.Probe
---@field kernel string
---@field usable boolean `uffd.open()` works
---@field route? "syscall"|"device" that `uffd.open()` takes
---@field user_mode_only boolean only so
---@field syscall_error? integer errno of userfaultfd(2)
---@field syscall_umo_error? integer errno of it with USER_MODE_ONLY
---@field device_error? integer errno of /dev/userfaultfd
---@field sysctl_unprivileged? integer vm.unprivileged_userfaultfd; nil when it cannot be read
---@field event_fork boolean the feature event_fork may be enabled
---@field features (string|integer)[] that the kernel offers
---@field missing (string|integer)[] that this library knows and the kernel lacks
---@field page_size integer bytes
---@field hugepage_size integer bytes; 0 without hugetlb
---@field hugepages_total integer
---@field hugepages_free integer
---@field advice string[] what is refused, why, and how to get it

---The functions under `uffd`, with their arguments by position. Programs use `uffd`.
---@class uffd.core
---@field version string
---@field errno table<string|integer, integer|string>
---@field ZERO uffd.Sentinel
---@field POISON uffd.Sentinel
---@field LATER uffd.Sentinel
---@field FILE uffd.Sentinel
---@field flags table<string, integer> bits behind options that have names
---@field methods table<string, table<string, function>> the methods of each class of handles
local core = {}

---@param features? uffd.Mask
---@param optional? uffd.Mask
---@param flags? integer
---@param route? string|integer
---@return uffd.Object? object
---@return string? message
---@return integer? errno
function core.open(features, optional, flags, route) end

---@param fd integer
---@return uffd.Object? object
---@return string? message
---@return integer? errno
function core.adopt(fd) end

---@param size integer
---@param kind? string|integer
---@param flags? integer
---@param name? string
---@param of? uffd.Memory
---@return uffd.Memory? memory
---@return string? message
---@return integer? errno
function core.map(size, kind, flags, name, of) end

---@param address integer
---@param size integer
---@return uffd.Memory? memory
---@return string? message
---@return integer? errno
function core.memory_adopt(address, size) end

---@param address integer
---@param size integer
---@param page_size? integer
---@param pid? integer
---@return uffd.Memory? memory
---@return string? message
---@return integer? errno
function core.memory_foreign(address, size, page_size, pid) end

---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_zero() end

---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_poison() end

---@param data string
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_bytes(data) end

---@param pattern string
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_pattern(pattern) end

---@param path_or_fd string|integer
---@param offset? integer
---@param length? integer
---@param changes? boolean
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_file(path_or_fd, offset, length, changes) end

---@param source uffd.Memory
---@param offset? integer
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_memory(source, offset) end

---@param below uffd.Resolver
---@param error? number
---@param poison? number
---@param errno? integer
---@param delay_ns? integer
---@param later? integer
---@param seed? integer
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_faulty(below, error, poison, errno, delay_ns, later, seed) end

---@param source uffd.Memory
---@param offset? integer
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_move(source, offset) end

---@param fill? uffd.Resolver
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_continue(fill) end

---@param source uffd.Memory
---@param below uffd.Resolver
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_shared(source, below) end

---@param layers uffd.Layer[]
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_layers(layers) end

---@param factory function
---@param args? any
---@param timeout_ms? integer
---@param room? integer
---@param libs? uffd.Mask
---@return uffd.Resolver? resolver
---@return string? message
---@return integer? errno
function core.resolver_policy(factory, args, timeout_ms, room, libs) end

---@param policy uffd.Resolver
---@param offset? integer
---@param page_size? integer
---@param flags? integer
---@return string? kind
---@return string|uffd.Resolver? value
---@return integer? offset
function core.ask(policy, offset, page_size, flags) end

---@param engine? string|integer
---@param handlers? integer
---@param on_error? string|integer
---@param open_flags? integer
---@param route? string|integer
---@param features? uffd.Mask
---@param paused? boolean
---@param placement? string|integer
---@return uffd.Loop? loop
---@return string? message
---@return integer? errno
function core.loop_create(engine, handlers, on_error, open_flags, route, features, paused, placement) end

---@param self uffd.Loop
---@param served uffd.Memory
---@param answers uffd.Resolver
---@param offset? integer
---@param length? integer
---@param from? integer
---@param modes? uffd.Mask
---@param around? integer|"auto"
---@param on_error? string|integer
---@param registered? uffd.Object
---@return uffd.Region? region
---@return string? message
---@return integer? errno
function core.loop_add(self, served, answers, offset, length, from, modes, around, on_error, registered) end

---@param filled uffd.Region
---@param ranges? integer[][] a list of `{ offset, length }`
---@param rate? integer bytes a second
---@return uffd.Prefetch? prefetch
---@return string? message
---@return integer? errno
function core.prefetch_start(filled, ranges, rate) end

---@param image string|string[]|integer
---@return integer? length
---@return integer|string identity
---@return integer? errno
function core.image_identity(image) end

---@param paths string[]
---@param options? table as `uffd.ImageLayers`, sizes as integers
---@return uffd.Image? image
---@return string? message
---@return integer? errno
function core.image_open(paths, options) end

---@param directory? string
---@return uffd.Cached[]? files
---@return string? message
---@return integer? errno
function core.image_cache_list(directory) end

---@param directory? string
---@return uffd.Cached[]? files
---@return string? message
---@return integer? errno
function core.image_cache_verify(directory) end

---@param directory? string
---@param limit? integer
---@return uffd.CacheGc? done
---@return string? message
---@return integer? errno
function core.image_cache_gc(directory, limit) end

---@param path string
---@param digest? string
---@param progress? fun(done: integer, total: integer): boolean?
---@return boolean? ok
---@return string? message
---@return integer? errno
function core.image_index(path, digest, progress) end

---@param from string
---@param path string
---@param options table as `uffd.ImportOptions`, sizes as integers
---@return uffd.Imported? imported
---@return string? message
---@return integer? errno
function core.image_import(from, path, options) end

---@param path string
---@param length integer
---@return uffd.Store? store
---@return string? message
---@return integer? errno
function core.store_file(path, length) end

---@param path string
---@param options table as `uffd.StoreLayerOptions`, sizes as integers
---@return uffd.Store? store
---@return string? message
---@return integer? errno
function core.store_layer(path, options) end

---@param path string
---@param options table
---@return uffd.Store? store
---@return string? message
---@return integer? errno
function core.store_writable(path, options) end

---@param page_size integer
---@param length integer
---@param identity? integer
---@return uffd.WorkingSet? set
---@return string? message
---@return integer? errno
function core.workingset_create(page_size, length, identity) end

---@param path string
---@return uffd.WorkingSet? set
---@return string? message
---@return integer? errno
function core.workingset_load(path) end

---@param options table as `uffd.PagerOptions`, sizes and mode as integers
---@return uffd.Pager? pager
---@return string? message
---@return integer? errno
function core.pager_create(options) end

---@param fd integer
---@param options table
---@return true? done
---@return string? message
---@return integer? errno
function core.pager_work(fd, options) end

---@param handle uffd.Pager
---@param options table
---@return true? done
---@return string? message
---@return integer? errno
function core.pager_configure(handle, options) end

---@param template string
---@param client table
---@return string? path
---@return string? message
---@return integer? errno
function core.client_path(template, client) end

---@param control string
---@param request string
---@param timeout_ms? integer
---@return string? reply
---@return string? message
---@return integer? errno
function core.pager_ask(control, request, timeout_ms) end

---Signals that come before `pager:on_signals` wait until then: one that ended the process when its front door is open
---already would end those who have connected meanwhile.
function core.pager_hold_signals() end

---@param socket string
---@param parts table
---@param timeout_ms? integer
---@param features? uffd.Mask
---@param open_flags? integer
---@param no_answer? boolean
---@param label? string
---@param part? boolean
---@param later? boolean
---@return uffd.Handoff? handoff
---@return string? message
---@return integer? errno
function core.handoff(socket, parts, timeout_ms, features, open_flags, no_answer, label, part, later) end

---@param socket string
---@param timeout_ms? integer
---@param fork? boolean
---@return uffd.Memory? memory
---@return string? message
---@return integer? errno
function core.handoff_map(socket, timeout_ms, fork) end

---@param socket string
---@param directory string
---@param door string
---@param label? string
---@param page_size? integer
---@param timeout_ms? integer
---@param paused? boolean
---@param restored? fun()
---@return uffd.OffloadResult? result
---@return string? message
---@return integer? errno
function core.offload_restore(socket, directory, door, label, page_size, timeout_ms, paused, restored) end

---@param socket string
---@param directory string
---@param timeout_ms? integer
---@return uffd.OffloadResult? result
---@return string? message
---@return integer? errno
function core.offload_snapshot(socket, directory, timeout_ms) end

---Columns of the terminal behind a descriptor; nil: it is none on which a line can be redrawn.
---@param fd integer
---@return integer? columns
function core.terminal(fd) end

---The path of this program; of the one that has replaced it, if that has happened.
---@return string? path
---@return string? message
---@return integer? errno
function core.program() end

---From now on what this program and its children write to a descriptor waits for nobody: it goes through a buffer, and
---lines for which there is no room are dropped.
---@param fd integer
---@param notice string that the reader is shown then, with one %d for the number of lines
---@return fun()? finish waits until all is written, or nobody takes it, and puts the descriptor back
---@return string? message
---@return integer? errno
function core.outlet(fd, notice) end

---Tells the service manager, as sd_notify(3) does; nothing where there is none.
---@param state string such as "READY=1"
---@return boolean? sent
function core.notify(state) end

---The keeper: runs a pager's program, keeps what it stores, starts it again when a signal has killed it.
---@param command string[] the program and its arguments
---@return integer? code its exit code
---@return string? message
---@return integer? errno
function core.pager_keep(command) end

---Nanoseconds since 1970.
---@return integer
function core.wall_clock() end

---Waits.
---@param ms integer milliseconds
function core.pause(ms) end

---The id of this process.
---@return integer
function core.pid() end

---The path of a program, as a shell finds it, and what keeps a library from being loaded into it first.
---@param name string
---@return string? path
---@return string? kind "static", "32-bit" or "privileged"; the message when there is no such program
---@return integer? errno
function core.find_program(name) end

---Replaces this program. UFFD_PRELOAD_PID of its environment is its own pid.
---@param words string[] the program and its arguments
---@param environment table<string, string> added to this program's
---@return nil
---@return string message
---@return integer errno
function core.exec(words, environment) end

---Starts a program, one at a time. SIGTERM and SIGHUP are passed on to it; it is killed when this program dies.
---@param words string[] the program and its arguments
---@param environment table<string, string> added to this program's
---@return integer? pid
---@return string? message
---@return integer? errno
function core.spawn(words, environment) end

---The exit code of a child, 128 and the number for a signal; nil while it runs.
---@param pid integer
---@return integer? code
---@return string? message
---@return integer? errno
function core.wait(pid) end

---Sends SIGKILL.
---@param pid integer
---@return boolean sent
function core.kill(pid) end

---A new directory for this user alone, in TMPDIR or /tmp.
---@return string? path
---@return string? message
---@return integer? errno
function core.make_directory() end

---@return uffd.Probe probe
function core.probe() end

---@return number seconds
function core.now() end

return core
