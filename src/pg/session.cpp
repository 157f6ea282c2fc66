/*
 * session.cpp -- see session.hpp. C++ region; guarded lambdas are C regions.
 */
#include "pg/session.hpp"

#include "pg/compat.hpp"
#include "pg/extension.hpp"

extern "C" {
#include "jit/jit.h"
#include "optimizer/optimizer.h"
#include "utils/plancache.h"
}

extern "C" {
#include "executor/instrument.h"
}

namespace jobqueue {

int64 buffers_touched() noexcept {
	return pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read;
}

namespace {

/*
 * Planned against an empty table, a statement would keep a sequential scan or a sort for ever; and a user's settings
 * would stay in a plan that is kept.
 */
struct PlannerSwitch {
	bool *variable;
	bool value;
};

} // namespace

static constexpr PlannerSwitch planner_switches[] = {
	{&enable_indexscan, true}, {&enable_indexonlyscan, true},	  {&enable_nestloop, true},
	{&enable_seqscan, false},  {&enable_bitmapscan, false},		  {&enable_sort, false},
	{&enable_hashjoin, false}, {&enable_mergejoin, false},		  {&enable_material, false},
	{&enable_memoize, false},  {&enable_incremental_sort, false}, {&enable_tidscan, true},
	{&jit_enabled, false},
};
static constexpr size_t switch_count = std::size(planner_switches);

static void pin_planner(std::array<int, switch_count + 2> &saved) noexcept {
	for (size_t i = 0; i < switch_count; i++)
		saved[i] = std::exchange(*planner_switches[i].variable, planner_switches[i].value);
	saved[switch_count] = std::exchange(max_parallel_workers_per_gather, 0);
	saved[switch_count + 1] = std::exchange(plan_cache_mode, static_cast<int>(PLAN_CACHE_MODE_AUTO));
}

static void unpin_planner(const std::array<int, switch_count + 2> &saved) noexcept {
	for (size_t i = 0; i < switch_count; i++)
		*planner_switches[i].variable = saved[i] != 0;
	max_parallel_workers_per_gather = saved[switch_count];
	plan_cache_mode = saved[switch_count + 1];
}

Oid function_owner(FunctionCallInfo fcinfo) {
	const Oid function = fcinfo->flinfo->fn_oid;
	return guard([function] {
		HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for function %u", function);
		const Oid owner = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple))->proowner;
		ReleaseSysCache(tuple);
		return owner;
	});
}

Session::Session(Oid owner, Writes writes) : exceptions_(std::uncaught_exceptions()) {
	saved_read_only_ = XactReadOnly;
	GetUserIdAndSecContext(&saved_user_, &saved_security_);

	SetUserIdAndSecContext(owner, saved_security_ | SECURITY_LOCAL_USERID_CHANGE);
	if (writes == Writes::always)
		XactReadOnly = false;
	pin_planner(saved_planner_);
	depth_++;
	try {
		guard([this] {
			path_level_ = compat::pin_search_path();
			if (SPI_connect() != SPI_OK_CONNECT)
				elog(ERROR, "SPI_connect failed");
		});
	} catch (...) {
		restore();
		throw;
	}
}

Session::~Session() {
	if (std::uncaught_exceptions() == exceptions_) {
		SPI_finish();
		compat::unpin_search_path(path_level_);
	}
	restore();
}

void Session::restore() noexcept {
	depth_--;
	unpin_planner(saved_planner_);
	XactReadOnly = saved_read_only_;
	SetUserIdAndSecContext(saved_user_, saved_security_);
}

#ifdef USE_ASSERT_CHECKING
static constexpr bool is_checked = true;
#else
static constexpr bool is_checked = false;
#endif

Pinned Session::pinned() {
	if (depth_ == 0)
		throw Error(ERRCODE_INTERNAL_ERROR, "a statement of jobqueue was to be run outside a session");
	if (!compat::search_path_is_pinned() || is_checked)
		guard([] { compat::pin_search_path_again(); });
	return Pinned();
}

Params &Params::add_datum(Datum value, bool isnull) noexcept {
	Assert(count_ < capacity);
	values_[count_] = value;
	nulls_[count_] = isnull ? 'n' : ' ';
	count_++;
	return *this;
}

Params &Params::add_null() noexcept {
	return add_datum(0, true);
}

Params &Params::add(int64 value) noexcept {
	return add_datum(Int64GetDatum(value), false);
}

Params &Params::add(int32 value) noexcept {
	return add_datum(Int32GetDatum(value), false);
}

Params &Params::add(int16 value) noexcept {
	return add_datum(Int16GetDatum(value), false);
}

Params &Params::add(bool value) noexcept {
	return add_datum(BoolGetDatum(value), false);
}

Params &Params::add_time(TimestampTz value) noexcept {
	return add_datum(TimestampTzGetDatum(value), false);
}

Params &Params::add(std::string_view value) {
	return add_datum(
		guard([&] { return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size()))); }),
		false);
}

Params &Params::add_name(std::string_view value) {
	return add_datum(guard([&] {
						 auto *name = static_cast<Name>(palloc0(NAMEDATALEN));
						 memcpy(NameStr(*name), value.data(), std::min<size_t>(value.size(), NAMEDATALEN - 1));
						 return NameGetDatum(name);
					 }),
					 false);
}

Params &Params::add(std::span<const int64> values) {
	return add_datum(guard([&] {
						 auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * (values.size() + 1)));
						 for (size_t i = 0; i < values.size(); i++)
							 elements[i] = Int64GetDatum(values[i]);
						 return PointerGetDatum(construct_array(elements, static_cast<int>(values.size()), INT8OID, 8,
																FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
					 }),
					 false);
}

Params &Params::add(std::span<const int32> values) {
	return add_datum(guard([&] {
						 auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * (values.size() + 1)));
						 for (size_t i = 0; i < values.size(); i++)
							 elements[i] = Int32GetDatum(values[i]);
						 return PointerGetDatum(construct_array(elements, static_cast<int>(values.size()), INT4OID, 4,
																true, TYPALIGN_INT));
					 }),
					 false);
}

Params &Params::add(std::span<const std::string> values) {
	return add_datum(guard([&] {
						 auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * (values.size() + 1)));
						 for (size_t i = 0; i < values.size(); i++)
							 elements[i] = PointerGetDatum(
								 cstring_to_text_with_len(values[i].data(), static_cast<int>(values[i].size())));
						 return PointerGetDatum(construct_array(elements, static_cast<int>(values.size()), TEXTOID, -1,
																false, TYPALIGN_INT));
					 }),
					 false);
}

bool Rows::is_null(uint64 row, int column) const noexcept {
	bool isnull;
	SPI_getbinval(table_->vals[row], table_->tupdesc, column, &isnull);
	return isnull;
}

Datum Rows::datum(uint64 row, int column) const noexcept {
	bool isnull;
	const Datum value = SPI_getbinval(table_->vals[row], table_->tupdesc, column, &isnull);
	return isnull ? 0 : value;
}

std::vector<int64> Rows::ids() const {
	std::vector<int64> ids;
	ids.reserve(size());
	for (uint64 i = 0; i < size(); i++)
		ids.push_back(int64_at(i, 1));
	return ids;
}

std::string Rows::text_at(uint64 row, int column) const {
	if (is_null(row, column))
		return {};
	const Datum value = datum(row, column);
	text *plain = guard([value] { return DatumGetTextPP(value); });
	return {VARDATA_ANY(plain), static_cast<size_t>(VARSIZE_ANY_EXHDR(plain))};
}

std::string Rows::name_at(uint64 row, int column) const {
	return is_null(row, column) ? std::string() : std::string(NameStr(*DatumGetName(datum(row, column))));
}

Rows Statement::execute(Params &params, bool read_only, const Pinned &) {
	Assert(params.count() == count_);
	struct Outcome {
		SPITupleTable *table;
		uint64 count;
	};
	struct JoinSwitch {
		explicit JoinSwitch(Join join) { set(join); }
		~JoinSwitch() { set(Join::loop); }
		static void set(Join join) noexcept {
			enable_nestloop = join == Join::loop;
			enable_hashjoin = join == Join::hash;
		}
	};
	std::optional<PgError> problem;
	try {
		const JoinSwitch join(join_); /* a kept plan may be made again at any time */
		const Outcome outcome = guard([&]() -> Outcome {
			if (plan_ == nullptr) {
				SPIPlanPtr plan = SPI_prepare_cursor(text_, count_, types_, CURSOR_OPT_GENERIC_PLAN);
				if (plan == nullptr || SPI_keepplan(plan) != 0)
					elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
				plan_ = plan;
			}
			const int code = SPI_execute_plan(plan_, params.values(), params.nulls(), read_only, 0);
			if (code < 0)
				elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
			return {SPI_tuptable, SPI_processed};
		});
		return {outcome.table, outcome.count};
	} catch (const PgError &error) {
		problem = error;
	}
	blame_version(*problem);
	throw PgError(*problem);
}

Rows Statement::run_on_latest(Params &params, const Pinned &pinned) {
	/* In parallel mode no snapshot can be taken. */
	guard([] { PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot()); });
	const Rows rows = execute(params, true, pinned);
	guard([] { PopActiveSnapshot(); });
	return rows;
}

} // namespace jobqueue
