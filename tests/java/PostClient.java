import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;

/**
 * Posts files to a URL as AppMon does: HttpURLConnection, kept alive, Content-Length, application/octet-stream,
 * preemptive Basic auth, a timeout of ten seconds, the answer read to its end, no redirects.
 *
 * <p>Usage: PostClient.java URL USER:PASSWORD|- FILE... ; a FILE of "-" stands for a connection test, a POST without a
 * body. Prints the statuses as a JSON array, with -1 for a post without an answer.
 */
public final class PostClient {
    private static final int TIMEOUT_MS = 10_000;

    private PostClient() {
    }

    public static void main(String[] arguments) throws IOException {
        List<String> statuses = new ArrayList<>();
        for (int i = 2; i < arguments.length; i++) {
            byte[] body = arguments[i].equals("-") ? null : Files.readAllBytes(Paths.get(arguments[i]));
            statuses.add(Integer.toString(post(arguments[0], arguments[1], body)));
        }
        System.out.println("[" + String.join(", ", statuses) + "]");
    }

    private static int post(String url, String credentials, byte[] body) {
        try {
            HttpURLConnection connection = (HttpURLConnection) new URL(url).openConnection();
            connection.setConnectTimeout(TIMEOUT_MS);
            connection.setReadTimeout(TIMEOUT_MS);
            connection.setInstanceFollowRedirects(false);
            connection.setRequestMethod("POST");
            connection.setRequestProperty("Content-Type", "application/octet-stream");
            if (!credentials.equals("-")) {
                String encoded = Base64.getEncoder().encodeToString(credentials.getBytes());
                connection.setRequestProperty("Authorization", "Basic " + encoded);
            }
            if (body != null) {
                connection.setDoOutput(true);
                connection.setFixedLengthStreamingMode(body.length);
                try (OutputStream out = connection.getOutputStream()) {
                    out.write(body);
                }
            }
            int status = connection.getResponseCode();
            drain(status < 400 ? connection.getInputStream() : connection.getErrorStream());
            return status;
        } catch (IOException error) {
            System.err.println(error);
            return -1;
        }
    }

    /** Java reuses a connection only after its answer was read to the end. */
    private static void drain(InputStream answer) throws IOException {
        if (answer == null) {
            return;
        }
        try (InputStream in = answer) {
            ByteArrayOutputStream read = new ByteArrayOutputStream();
            byte[] buffer = new byte[4096];
            for (int length = in.read(buffer); length >= 0; length = in.read(buffer)) {
                read.write(buffer, 0, length);
            }
        }
    }
}
