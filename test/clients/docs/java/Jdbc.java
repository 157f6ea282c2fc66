// section: JDBC
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;

public class Jdbc {
    static final List<String> sent = new ArrayList<>();

    static void sendMail(String payload) {
        sent.add(payload);
    }

    static void work(Connection conn) throws SQLException {
        // BLOCK 1
        require(sent.equals(List.of("{\"to\": \"ann@example.org\"}")), "sent: " + sent);
        sent.clear();
        var last = "SELECT status || ' ' || payload || ' ' || result FROM jobqueue.tasks ORDER BY id DESC LIMIT 1";
        try (var statement = conn.createStatement(); ResultSet row = statement.executeQuery(last)) {
            row.next();
            var task = row.getString(1);
            require(task.equals("completed {\"to\": \"ann@example.org\"} {\"sent\": true}"), task);
        }
    }

    interface Action {
        void run() throws SQLException;
    }

    static void fails(Action action, String sqlstate) {
        try {
            action.run();
        } catch (SQLException error) {
            require(sqlstate == null || sqlstate.equals(error.getSQLState()), error.toString());
            return;
        }
        require(false, "no error");
    }

    // The notes below the block.
    static void notes(Connection conn) throws SQLException {
        fails(() -> {
            var enqueue = conn.prepareStatement("SELECT jobqueue.enqueue('check', ?)");
            enqueue.setString(1, "{}");
            enqueue.execute();
        }, "42883");
        var enqueue = conn.prepareStatement("SELECT jobqueue.enqueue('check', delay => ?::interval, priority => ?)");
        enqueue.setString(1, "1 hour");
        enqueue.setInt(2, 5);
        enqueue.execute();
        fails(() -> {
            enqueue.setLong(2, 5);
            enqueue.execute();
        }, "42883");
        var complete = conn.prepareStatement("SELECT jobqueue.complete(?, ?)");
        complete.setLong(1, 1);
        complete.setLong(2, 1);
        fails(complete::execute, "42883");
        complete.setInt(2, 99);
        fails(complete::executeUpdate, null);
    }

    static void require(boolean condition, String message) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }

    public static void main(String[] arguments) throws SQLException {
        var url = "jdbc:postgresql://127.0.0.1:" + arguments[0] + "/" + System.getenv("PGDATABASE") + "?user="
                + System.getenv("PGUSER") + "&POOLER_OPTION";
        try (var conn = DriverManager.getConnection(url)) {
            // with autocommit, the driver prepares a statement again that is missing; in a transaction it cannot
            for (int run = 0; run < 20; run++) {
                conn.setAutoCommit(run < 10);
                work(conn);
                if (run >= 10) {
                    conn.commit();
                }
            }
            conn.setAutoCommit(true);
            notes(conn);
        }
    }
}
