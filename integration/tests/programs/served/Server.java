import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** Answers each request with how many there have been and how far other threads have counted: both are on the heap alone. */
public final class Server {
    private static final AtomicLong requests = new AtomicLong();
    private static final AtomicLong ticks = new AtomicLong();
    /** Every answer so far, so that the collector has something to move. */
    private static final ConcurrentHashMap<Long, String> answers = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws IOException {
        var timers = Executors.newScheduledThreadPool(3);
        for (int number = 0; number < 3; number++) {
            timers.scheduleAtFixedRate(ticks::incrementAndGet, 0, 20, TimeUnit.MILLISECONDS);
        }
        var workers = Executors.newFixedThreadPool(4);
        try (var listener = listen(arguments[0])) {
            System.out.println("ready");
            while (true) {
                var connection = listener.accept();
                workers.submit(() -> answer(connection));
            }
        }
    }

    private static ServerSocketChannel listen(String place) throws IOException {
        if (place.startsWith("/")) {
            var listener = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
            return listener.bind(UnixDomainSocketAddress.of(place));
        }
        return ServerSocketChannel.open().bind(new InetSocketAddress(Integer.parseInt(place)));
    }

    private static Void answer(SocketChannel connection) throws IOException {
        try (connection) {
            var head = new StringBuilder();
            var buffer = ByteBuffer.allocate(4096);
            while (head.indexOf("\r\n\r\n") < 0 && connection.read(buffer) >= 0) {
                head.append(StandardCharsets.US_ASCII.decode(buffer.flip()));
                buffer.clear();
            }
            long number = requests.incrementAndGet();
            var body = number + " " + ticks.get() + "\n";
            answers.put(number, body);
            if (answers.size() != number) {
                body = "an answer is missing\n";
            }
            var text = "HTTP/1.0 200 OK\r\nContent-Length: " + body.length() + "\r\n\r\n" + body;
            connection.write(StandardCharsets.US_ASCII.encode(text));
        }
        return null;
    }
}
