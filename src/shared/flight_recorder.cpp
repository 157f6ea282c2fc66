/*
 * flight_recorder.cpp -- see flight_recorder.hpp. C region.
 */
#include "shared/flight_recorder.hpp"

extern "C" {
#include "common/file_perm.h"
#include "pgstat.h"
#include "storage/fd.h"
}

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace jobqueue {

namespace {

/* A directory whose contents base backups leave out. */
constexpr const char *path = PG_STAT_TMP_DIR "/jobqueue_flight_recorder";
constexpr uint64 magic = 0x6a6f627175657501; /* its last byte is the version of the layout */
constexpr int entry_count = 1024;			 /* workers in higher slots are not recorded */
constexpr int suspect_count = 256;

enum class Flight : uint32 { none, running, innocent, killed };

struct Entry {
	pg_atomic_uint32 state; /* Flight */
	Oid database;
	int64 task;
	int32 attempt;
};

struct Header {
	uint64 magic;
	uint64 device, inode; /* of the file itself: a copy has another */
	char boot[64];		  /* names this run of the machine */
	pg_atomic_uint32
		quit; /* a process of ours was told to quit: the postmaster has seen a crash, or an immediate stop */
};

struct File {
	Header header;
	Entry entries[entry_count];
	Entry suspects[suspect_count]; /* running or killed; none = free */
};

} // namespace

static File *file = nullptr;

static Flight state_of(Entry *entry) noexcept {
	return static_cast<Flight>(pg_atomic_read_u32(&entry->state));
}

static void set_state_of(Entry *entry, Flight state) noexcept {
	pg_atomic_write_u32(&entry->state, static_cast<uint32>(state));
}

bool flight_recorder_works() noexcept {
	return file != nullptr;
}

/* Empty where the system does not say. */
static void read_boot_id(char *buffer, size_t size) {
	memset(buffer, 0, size);
	const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (read(fd, buffer, size - 1) < 0)
		buffer[0] = '\0';
	close(fd);
}

/* Writes the whole file, so that no page of the mapping lacks room on the disk. */
static bool fill(int fd) {
	static const char zeros[BLCKSZ] = {};
	for (size_t done = 0; done < sizeof(File);) {
		const ssize_t written =
			pwrite(fd, zeros, std::min(sizeof(zeros), sizeof(File) - done), static_cast<off_t>(done));
		if (written <= 0)
			return false;
		done += static_cast<size_t>(written);
	}
	return true;
}

static void map_file() {
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, pg_file_create_mode);
	struct stat status = {};
	void *mapping = MAP_FAILED;
	if (fd >= 0 && fstat(fd, &status) == 0 && (status.st_size == static_cast<off_t>(sizeof(File)) || fill(fd)))
		mapping = mmap(nullptr, sizeof(File), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	const int problem = errno;
	if (fd >= 0)
		close(fd);
	if (mapping == MAP_FAILED) {
		errno = problem;
		ereport(LOG, (errcode_for_file_access(), errmsg("jobqueue could not open its flight recorder \"%s\": %m", path),
					  errdetail("If a task crashes the server, all that are running will be charged for it.")));
		return;
	}
	file = static_cast<File *>(mapping);

	Header fresh = {};
	fresh.magic = magic;
	fresh.device = status.st_dev;
	fresh.inode = status.st_ino;
	read_boot_id(fresh.boot, sizeof(fresh.boot));
	const Header &old = file->header;
	const bool ours = old.magic == magic && old.device == fresh.device && old.inode == fresh.inode &&
					  fresh.boot[0] != '\0' && memcmp(old.boot, fresh.boot, sizeof(fresh.boot)) == 0;
	if (!ours)
		memset(static_cast<void *>(file), 0, sizeof(File));
	else if (pg_atomic_read_u32(&file->header.quit) == 0)
		memset(static_cast<void *>(file->entries), 0, sizeof(file->entries)); /* the postmaster was killed */
	else
		fresh.quit = old.quit;
	file->header = fresh;
}

static void suspect(const Entry &entry) {
	Entry *place = &file->suspects[0];
	for (Entry &candidate : file->suspects) {
		if (state_of(&candidate) == Flight::none) {
			place = &candidate;
			break;
		}
	}
	*place = entry;
}

void open_flight_recorder() {
	if (file == nullptr)
		map_file();
	if (file == nullptr)
		return;
	for (Entry &entry : file->entries) {
		if (state_of(&entry) == Flight::running || state_of(&entry) == Flight::killed)
			suspect(entry);
		set_state_of(&entry, Flight::none);
	}
	pg_atomic_write_u32(&file->header.quit, 0);
}

static Entry *entry_of(int worker) noexcept {
	return file != nullptr && worker >= 0 && worker < entry_count ? &file->entries[worker] : nullptr;
}

void record_running(int worker, Oid database, int64 task, int32 attempt) noexcept {
	Entry *entry = entry_of(worker);
	if (entry == nullptr)
		return;
	entry->database = database;
	entry->task = task;
	entry->attempt = attempt;
	pg_write_barrier();
	set_state_of(entry, Flight::running);
}

void record_several(int worker, Oid database) noexcept {
	record_running(worker, database, 0, 0);
}

void record_idle(int worker) noexcept {
	if (Entry *entry = entry_of(worker))
		set_state_of(entry, Flight::none);
}

void record_innocence(int worker) noexcept {
	if (file == nullptr)
		return;
	pg_atomic_write_u32(&file->header.quit, 1);
	if (Entry *entry = entry_of(worker); entry && state_of(entry) == Flight::running)
		set_state_of(entry, Flight::innocent);
}

void record_kill(int worker) noexcept {
	if (Entry *entry = entry_of(worker))
		set_state_of(entry, Flight::killed);
}

bool next_suspect(Oid database, Suspect *suspect) noexcept {
	if (file == nullptr)
		return false;
	for (Entry &entry : file->suspects) {
		if (state_of(&entry) == Flight::none || entry.database != database)
			continue;
		*suspect = {entry.database, entry.task, entry.attempt, state_of(&entry) == Flight::killed};
		return true;
	}
	return false;
}

void forget_suspect(const Suspect &suspect) noexcept {
	if (file == nullptr)
		return;
	for (Entry &entry : file->suspects)
		if (entry.database == suspect.database && entry.task == suspect.task && entry.attempt == suspect.attempt)
			set_state_of(&entry, Flight::none);
}

} // namespace jobqueue
