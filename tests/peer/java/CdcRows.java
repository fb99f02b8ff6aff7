import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HexFormat;
import org.tikv.cdc.CDCClient;
import org.tikv.cdc.CDCConfig;
import org.tikv.common.TiConfiguration;
import org.tikv.common.TiSession;
import org.tikv.kvproto.Cdcpb.Event.Row;
import org.tikv.kvproto.Coprocessor.KeyRange;
import org.tikv.shade.com.google.protobuf.ByteString;

/**
 * Prints the rows that tikv-client-java's CDCClient receives, up to a resolved timestamp.
 *
 * <pre>java -cp JARS CdcRows.java PD START END CHECKPOINT_TS</pre>
 *
 * START and END are raw keys in hexadecimal. The timestamp to stop at is read from the standard
 * input. A row is a line: type, op_type, start_ts, commit_ts, key, value, old value; "-" if empty.
 */
public final class CdcRows {
  private static final int BUFFERED_EVENTS = 1 << 20;
  private static final HexFormat HEX = HexFormat.of();

  public static void main(String[] arguments) throws Exception {
    KeyRange range =
        KeyRange.newBuilder().setStart(key(arguments[1])).setEnd(key(arguments[2])).build();
    CDCConfig config = new CDCConfig();
    // The client drops what does not fit.
    config.setEventBufferSize(BUFFERED_EVENTS);
    config.setMaxRowKeySize(4096);
    TiSession session = TiSession.create(TiConfiguration.createDefault(arguments[0]));
    CDCClient client = new CDCClient(session, range, config);
    client.start(Long.parseLong(arguments[3]));
    System.out.println("started");
    BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
    long end = 0;
    while (end == 0 || client.getMinResolvedTs() < end) {
      Row row = client.get();
      if (row != null) {
        print(row);
      }
      if (end == 0 && input.ready()) {
        end = Long.parseLong(input.readLine());
      }
    }
    System.out.println("done");
    System.out.flush();
    // Closing would wait for a minute.
    Runtime.getRuntime().halt(0);
  }

  private static void print(Row row) {
    System.out.println(
        String.join(
            " ",
            row.getType().name(),
            row.getOpType().name(),
            Long.toString(row.getStartTs()),
            Long.toString(row.getCommitTs()),
            hex(row.getKey()),
            hex(row.getValue()),
            hex(row.getOldValue())));
  }

  private static ByteString key(String hex) {
    return ByteString.copyFrom(HEX.parseHex(hex));
  }

  private static String hex(ByteString bytes) {
    return bytes.isEmpty() ? "-" : HEX.formatHex(bytes.toByteArray());
  }
}
