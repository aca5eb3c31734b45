// java Orders.java CA PORT: orders through Java's HttpClient, which offers HTTP/2 first; prints one line for each answer.
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Orders {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream file = new FileInputStream(arguments[0])) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        HttpClient client = HttpClient.newBuilder().sslContext(tls).connectTimeout(Duration.ofSeconds(10)).build();
        String base = "https://localhost:" + arguments[1];
        String body = "{\"timeoutInSeconds\": 14, \"parameters\": [{\"password\": \"s3cr3t-\u043f\u0430\u0440\u043e\u043b\u044c\"}]}";
        for (int number = 0; number < 5; number++) {
            HttpRequest post = HttpRequest.newBuilder(URI.create(base + "/api/v1/equipment/cpe/JAVA" + (1000 + number)))
                .header("Content-Type", "application/json")
                .expectContinue(number == 4)
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
            HttpResponse<String> posted = client.send(post, HttpResponse.BodyHandlers.ofString());
            String location = posted.headers().firstValue("Location").orElseThrow();
            HttpRequest get = HttpRequest.newBuilder(URI.create(base + location)).header("Prefer", "wait=20").build();
            HttpResponse<String> told = client.send(get, HttpResponse.BodyHandlers.ofString());
            System.out.println(posted.statusCode() + " " + told.version() + " " + told.statusCode() + " " + told.body());
        }
    }
}
