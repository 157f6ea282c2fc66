// Helper of the tests: a server whose clock is set. Not for LOAD: the server is started with it in LD_PRELOAD.
//
//	LD_PRELOAD=$pkglibdir/shifted_clock.so SHIFTED_CLOCK=FILE pg_ctl start
//
// The file begins with a number of microseconds, eight bytes in the machine's byte order. From the moment when it is
// written, the wall clock of all processes is ahead by that much, or behind if the number is negative. The steady clock
// is not changed, as it is not when somebody sets a real clock.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

namespace {

std::atomic<std::int64_t> *shift;

__attribute__((constructor)) void find_shift() {
	const char *file = std::getenv("SHIFTED_CLOCK");
	const int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	void *memory = mmap(nullptr, sizeof(*shift), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (memory != MAP_FAILED)
		shift = static_cast<std::atomic<std::int64_t> *>(memory);
}

std::int64_t microseconds() {
	timespec now = {};
	syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
	return now.tv_sec * std::int64_t{1000000} + now.tv_nsec / 1000 + (shift ? shift->load() : 0);
}

} // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int gettimeofday(timeval *time, void *) noexcept {
	const std::int64_t now = microseconds();
	time->tv_sec = now / 1000000;
	time->tv_usec = now % 1000000;
	return 0;
}

EXPORTED int clock_gettime(clockid_t clock, timespec *time) noexcept {
	if (clock != CLOCK_REALTIME)
		return static_cast<int>(syscall(SYS_clock_gettime, clock, time));
	const std::int64_t now = microseconds();
	time->tv_sec = now / 1000000;
	time->tv_nsec = now % 1000000 * 1000;
	return 0;
}

EXPORTED time_t time(time_t *time) noexcept {
	const time_t now = microseconds() / 1000000;
	if (time)
		*time = now;
	return now;
}
