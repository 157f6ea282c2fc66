/*
 * flight_recorder.cpp -- see flight_recorder.hpp. C region.
 */
#include "shared/flight_recorder.hpp"

extern "C" {
#include "common/file_perm.h"
#include "port/pg_crc32c.h"
}

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace jobqueue {

namespace {

constexpr int suspect_count = 256;

enum class Flight : uint32 { none, running, innocent, killed };

struct Entry {
	pg_atomic_uint32 state; /* Flight */
	Oid database;
	int64 task;
	int32 attempt;
	int32 pid;
	Oid role; /* of several tasks, as is the next one */
	uint64 type;
};

struct Memory {
	pg_atomic_uint32
		quit;		 /* a process of ours was told to quit: the postmaster has seen a crash, or an immediate stop */
	bool complained; /* about the file */
	int count;		 /* of entries */
	Entry suspects[suspect_count]; /* running or killed; none = free */
	Entry entries[FLEXIBLE_ARRAY_MEMBER];
};

/* Base backups leave out what is in this directory. */
constexpr const char *path = PG_STAT_TMP_DIR "/jobqueue_flight_recorder";
constexpr uint64 magic = 0x6a6f627175657503; /* its last byte is the version of the layout */

struct SavedSuspect {
	int64 task;
	Oid database;
	int32 attempt;
	uint32 killed;
	Oid role;
	uint64 type;
};

/* The file. */
struct Record {
	uint64 magic;
	uint64 device, inode; /* of the file itself: a copy has another one */
	char boot[64];		  /* identifies this run of the machine */
	uint32 count;
	pg_crc32c checksum; /* of the whole, with 0 in its place */
	SavedSuspect suspects[suspect_count];
};

Memory *memory = nullptr;

Flight state_of(Entry *entry) noexcept {
	return static_cast<Flight>(pg_atomic_read_u32(&entry->state));
}

void set_state_of(Entry *entry, Flight state) noexcept {
	pg_atomic_write_u32(&entry->state, static_cast<uint32>(state));
}

bool is_suspicious(Entry *entry) noexcept {
	return state_of(entry) == Flight::running || state_of(entry) == Flight::killed;
}

bool is_alive(const Entry &entry) noexcept {
	return kill(entry.pid, 0) == 0;
}

std::span<Entry> entries() noexcept {
	return {memory->entries, static_cast<size_t>(memory->count)};
}

void absolve(Entry *entry) noexcept {
	auto expected = static_cast<uint32>(Flight::running);
	pg_atomic_compare_exchange_u32(&entry->state, &expected, static_cast<uint32>(Flight::innocent));
}

void suspect(const Entry &entry) noexcept {
	Entry *place = &memory->suspects[0];
	for (Entry &candidate : memory->suspects) {
		if (state_of(&candidate) == Flight::none) {
			place = &candidate;
			break;
		}
	}
	*place = entry;
}

/* Reads what identifies this run of the machine; empty if the system has nothing that does. */
void read_boot_id(char *buffer, size_t size) {
	memset(buffer, 0, size);
	const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (read(fd, buffer, size - 1) < 0)
		buffer[0] = '\0';
	close(fd);
}

pg_crc32c checksum_of(const Record &record) {
	Record copy = record;
	copy.checksum = 0;
	pg_crc32c checksum;
	INIT_CRC32C(checksum);
	COMP_CRC32C(checksum, &copy, sizeof(copy));
	FIN_CRC32C(checksum);
	return checksum;
}

/* Does not wait if a pipe or a device is in place of the file, and does not follow a link. */
int open_file(int flags) {
	return open(path, flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, pg_file_create_mode);
}

bool is_regular(int fd, struct stat *status) {
	if (fstat(fd, status) != 0)
		return false;
	if (S_ISREG(status->st_mode))
		return true;
	errno = EINVAL;
	return false;
}

/* The identity of this file, in this run of the machine. */
Record fresh_record(const struct stat &status) {
	Record record = {};
	record.magic = magic;
	record.device = status.st_dev;
	record.inode = status.st_ino;
	read_boot_id(record.boot, sizeof(record.boot));
	return record;
}

/* Allocates the whole file on disk now, because the disk may be full by the time it is needed. */
bool write_record(int fd, Record *record) {
	record->checksum = checksum_of(*record);
	if (ftruncate(fd, sizeof(Record)) != 0)
		return false;
	errno = posix_fallocate(fd, 0, sizeof(Record));
	if (errno != 0 && errno != EOPNOTSUPP && errno != EINVAL) /* not every file system can do that */
		return false;
	errno = 0;
	if (pwrite(fd, record, sizeof(Record), 0) == static_cast<ssize_t>(sizeof(Record)))
		return true;
	errno = errno ? errno : ENOSPC;
	return false;
}

/* Reports that the file cannot be used; once, until it can be used again. */
void complain() {
	if (std::exchange(memory->complained, true))
		return;
	ereport(
		LOG,
		(errcode_for_file_access(), errmsg("jobqueue could not open its flight recorder \"%s\": %m", path),
		 errdetail(
			 "If a task crashes the server while restart_after_crash is off, the task will not be charged for it.")));
}

bool save(Record (*make)(const struct stat &)) {
	const int fd = open_file(O_WRONLY | O_CREAT);
	if (fd < 0)
		return false;
	struct stat status;
	bool done = is_regular(fd, &status);
	if (done) {
		Record record = make(status);
		done = write_record(fd, &record);
	}
	const int problem = errno;
	close(fd);
	errno = problem;
	return done;
}

Record record_of_suspects(const struct stat &status) {
	Record record = fresh_record(status);
	for (Entry &entry : memory->suspects)
		if (is_suspicious(&entry))
			record.suspects[record.count++] = {
				entry.task, entry.database, entry.attempt, state_of(&entry) == Flight::killed, entry.role, entry.type};
	return record;
}

/*
 * Called when the postmaster ends, after its children. The next postmaster charges the suspects that this one could not
 * charge. The code is 0 after an immediate stop: then no task is to blame, however the processes have ended.
 */
void at_exit_of_postmaster(int code, Datum) {
	if (memory == nullptr || MyProcPid != PostmasterPid)
		return;
	if (code != 0 && pg_atomic_read_u32(&memory->quit) != 0)
		for (Entry &entry : entries())
			if (is_suspicious(&entry) && !is_alive(entry))
				suspect(entry);
	bool any = false;
	for (Entry &entry : memory->suspects)
		any |= is_suspicious(&entry);
	if (any && !save(record_of_suspects))
		complain();
}

void map_memory() {
	const Size size = add_size(offsetof(Memory, entries), mul_size(max_worker_processes, sizeof(Entry)));
	void *mapping = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mapping == MAP_FAILED) {
		ereport(LOG, (errmsg("jobqueue could not allocate memory for its flight recorder: %m"),
					  errdetail("If a task crashes the server, all that are running will be charged for it.")));
		return;
	}
	memory = static_cast<Memory *>(mapping); /* it is full of zeros */
	memory->count = max_worker_processes;
	on_proc_exit(at_exit_of_postmaster, 0);
}

} // namespace

bool flight_recorder_works() noexcept {
	return memory != nullptr;
}

void open_flight_recorder() {
	if (memory == nullptr) {
		map_memory();
		return;
	}
	/* This postmaster has called it before: so there was a crash. */
	for (Entry &entry : entries()) {
		if (is_suspicious(&entry))
			suspect(entry);
		set_state_of(&entry, Flight::none);
	}
	pg_atomic_write_u32(&memory->quit, 0);
}

void read_flight_recorder() {
	if (memory == nullptr)
		return;
	const int fd = open_file(O_RDONLY);
	const bool is_new = fd < 0 && errno == ENOENT;
	struct stat status;
	if (!is_new && (fd < 0 || !is_regular(fd, &status))) {
		const int problem = errno;
		if (fd >= 0)
			close(fd);
		errno = problem;
		complain();
		return;
	}
	if (!is_new) {
		Record record;
		const bool whole = status.st_size == static_cast<off_t>(sizeof(record)) &&
						   pread(fd, &record, sizeof(record), 0) == static_cast<ssize_t>(sizeof(record)) &&
						   record.magic == magic && record.count <= suspect_count &&
						   record.checksum == checksum_of(record);
		close(fd);
		if (!whole)
			ereport(LOG,
					(errmsg("jobqueue's flight recorder \"%s\" is not as it was left, and is created again", path)));
		const Record here = fresh_record(status);
		const bool ours = whole && record.device == here.device && record.inode == here.inode && here.boot[0] != '\0' &&
						  memcmp(record.boot, here.boot, sizeof(here.boot)) == 0;
		for (uint32 i = 0; ours && i < record.count; i++) {
			const SavedSuspect &saved = record.suspects[i];
			Entry entry = {{}, saved.database, saved.task, saved.attempt, 0, saved.role, saved.type};
			set_state_of(&entry, saved.killed ? Flight::killed : Flight::running);
			suspect(entry);
		}
	}
	if (save(fresh_record))
		memory->complained = false;
	else
		complain();
}

static Entry *entry_of(int worker) noexcept {
	return memory != nullptr && worker >= 0 && worker < memory->count ? &memory->entries[worker] : nullptr;
}

static void record(int worker, Oid database, int64 task, int32 attempt, Oid role, uint64 type) noexcept {
	Entry *entry = entry_of(worker);
	if (entry == nullptr)
		return;
	entry->database = database;
	entry->task = task;
	entry->attempt = attempt;
	entry->pid = MyProcPid;
	entry->role = role;
	entry->type = type;
	pg_write_barrier();
	set_state_of(entry, Flight::running);
}

void record_running(int worker, Oid database, int64 task, int32 attempt) noexcept {
	record(worker, database, task, attempt, InvalidOid, 0);
}

void record_several(int worker, Oid database, Oid role, uint64 type) noexcept {
	record(worker, database, 0, 0, role, type);
}

void record_idle(int worker) noexcept {
	if (Entry *entry = entry_of(worker))
		set_state_of(entry, Flight::none);
}

void record_innocence(int worker) noexcept {
	if (memory == nullptr)
		return;
	pg_atomic_write_u32(&memory->quit, 1);
	for (Entry &entry : entries())
		if (state_of(&entry) == Flight::running && is_alive(entry))
			absolve(&entry);
	record_mishap(worker);
}

void record_mishap(int worker) noexcept {
	if (Entry *entry = entry_of(worker))
		absolve(entry);
}

void record_kill(int worker) noexcept {
	if (Entry *entry = entry_of(worker))
		set_state_of(entry, Flight::killed);
}

bool next_suspect(Oid database, int *place, Suspect *suspect) noexcept {
	if (memory == nullptr)
		return false;
	while (*place < static_cast<int>(std::size(memory->suspects))) {
		Entry &entry = memory->suspects[(*place)++];
		if (state_of(&entry) == Flight::none || entry.database != database)
			continue;
		*suspect = {entry.database, entry.task, entry.attempt,
					entry.role,		entry.type, state_of(&entry) == Flight::killed};
		return true;
	}
	return false;
}

void forget_suspect(const Suspect &suspect) noexcept {
	if (memory == nullptr)
		return;
	for (Entry &entry : memory->suspects)
		if (entry.database == suspect.database && entry.task == suspect.task && entry.attempt == suspect.attempt &&
			entry.role == suspect.role && entry.type == suspect.type)
			set_state_of(&entry, Flight::none);
}

} // namespace jobqueue
