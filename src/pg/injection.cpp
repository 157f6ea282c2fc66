/*
 * injection.cpp -- see injection.hpp. C region.
 */
#include "pg/injection.hpp"

#ifdef JOBQUEUE_INJECTION

extern "C" {
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
}

#include <csignal>
#include <unistd.h>

namespace jobqueue::detail {

static const char *process_name() noexcept {
	const char *const type = MyBgworkerEntry ? MyBgworkerEntry->bgw_type : "";
	return strncmp(type, "jobqueue ", 9) == 0 ? type + 9 : "backend";
}

/* Removes the file. Empty if there is none. */
static void take(const char *path, char (&word)[16]) noexcept {
	word[0] = '\0';
	FILE *const file = fopen(path, "r");
	if (file == nullptr)
		return;
	if (fscanf(file, "%15s", word) != 1)
		word[0] = '\0';
	fclose(file);
	/* Of several processes that come here at once, one has it. */
	if (unlink(path) != 0)
		word[0] = '\0';
}

void injection_point(const char *name) {
	char path[MAXPGPATH], go[MAXPGPATH], word[16];
	snprintf(path, sizeof(path), "%s/jobqueue.injection/%s.%s", DataDir, process_name(), name);
	take(path, word);
	if (word[0] == '\0')
		return;
	ereport(LOG, (errmsg_internal("injection point \"%s\": %s", name, word)));
	if (strcmp(word, "kill") == 0)
		kill(MyProcPid, SIGKILL);
	if (strcmp(word, "exit") == 0)
		proc_exit(1);
	if (strcmp(word, "error") == 0)
		ereport(ERROR, (errmsg_internal("injected at \"%s\"", name)));
	snprintf(go, sizeof(go), "%s.go", path);
	while (unlink(go) != 0) {
		CHECK_FOR_INTERRUPTS();
		pg_usleep(10000);
	}
}

} // namespace jobqueue::detail

#endif
