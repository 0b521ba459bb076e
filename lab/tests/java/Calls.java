// Both ends of gRPC, of grpc-java: what node/calls.mjs is of grpc-js, with the same two commands and the same
// conversation. It takes the jars that pom.xml names.

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.ServerInterceptors;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.util.Arrays;
import java.util.Iterator;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

public class Calls {
  static final Metadata.Key<String> OWN = Metadata.Key.of("x-own", Metadata.ASCII_STRING_MARSHALLER);
  static final Context.Key<String> HEARD = Context.key("x-own");

  static final MethodDescriptor.Marshaller<byte[]> BYTES =
      new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] value) {
          return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
          try {
            return stream.readAllBytes();
          } catch (IOException e) {
            throw new UncheckedIOException(e);
          }
        }
      };

  static MethodDescriptor<byte[], byte[]> method(String name, MethodType type) {
    String full = MethodDescriptor.generateFullMethodName("test.Calls", name);
    return MethodDescriptor.newBuilder(BYTES, BYTES).setType(type).setFullMethodName(full).build();
  }

  static final MethodDescriptor<byte[], byte[]> ECHO = method("Echo", MethodType.UNARY);
  static final MethodDescriptor<byte[], byte[]> FAIL = method("Fail", MethodType.UNARY);
  static final MethodDescriptor<byte[], byte[]> METADATA = method("Metadata", MethodType.UNARY);
  static final MethodDescriptor<byte[], byte[]> MANY = method("Many", MethodType.SERVER_STREAMING);
  static final MethodDescriptor<byte[], byte[]> SUM = method("Sum", MethodType.CLIENT_STREAMING);
  static final MethodDescriptor<byte[], byte[]> CHAT = method("Chat", MethodType.BIDI_STREAMING);

  /** Hears messages, and says one thing when there are no more. */
  abstract static class Hears implements StreamObserver<byte[]> {
    final StreamObserver<byte[]> out;

    Hears(StreamObserver<byte[]> out) {
      this.out = out;
    }

    @Override
    public void onError(Throwable error) {}
  }

  static void answer(StreamObserver<byte[]> out, byte[] message) {
    out.onNext(message);
    out.onCompleted();
  }

  static int number(byte[] message) {
    return Integer.parseInt(new String(message));
  }

  static byte[] bytes(Object value) {
    return value.toString().getBytes();
  }

  static void serve(int port) throws Exception {
    ServerServiceDefinition service =
        ServerServiceDefinition.builder("test.Calls")
            .addMethod(ECHO, ServerCalls.asyncUnaryCall((message, out) -> answer(out, message)))
            .addMethod(
                FAIL,
                ServerCalls.asyncUnaryCall(
                    (message, out) ->
                        out.onError(
                            Status.fromCodeValue(number(message))
                                .withDescription("as it was asked to")
                                .asRuntimeException())))
            .addMethod(
                METADATA,
                ServerCalls.asyncUnaryCall(
                    (message, out) -> answer(out, bytes("{\"x-own\": \"" + HEARD.get() + "\"}"))))
            .addMethod(
                MANY,
                ServerCalls.asyncServerStreamingCall(
                    (message, out) -> {
                      for (int i = 0; i < number(message); i += 1) out.onNext(bytes(i));
                      out.onCompleted();
                    }))
            .addMethod(
                SUM,
                ServerCalls.asyncClientStreamingCall(
                    out ->
                        new Hears(out) {
                          int sum = 0;

                          @Override
                          public void onNext(byte[] message) {
                            sum += message.length;
                          }

                          @Override
                          public void onCompleted() {
                            answer(out, bytes(sum));
                          }
                        }))
            .addMethod(
                CHAT,
                ServerCalls.asyncBidiStreamingCall(
                    out ->
                        new Hears(out) {
                          @Override
                          public void onNext(byte[] message) {
                            out.onNext(message);
                          }

                          @Override
                          public void onCompleted() {
                            out.onCompleted();
                          }
                        }))
            .build();
    ServerInterceptor hears =
        new ServerInterceptor() {
          @Override
          public <Q, A> ServerCall.Listener<Q> interceptCall(
              ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
            Context context = Context.current().withValue(HEARD, headers.get(OWN));
            return io.grpc.Contexts.interceptCall(context, call, headers, next);
          }
        };
    NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", port))
        .addService(ServerInterceptors.intercept(service, hears))
        .build()
        .start()
        .awaitTermination();
  }

  static void expect(String what, Object seen, Object wanted) {
    if (seen.equals(wanted)) return;
    System.err.println(what + ": expected " + wanted + ", saw " + seen);
    System.exit(1);
  }

  /** Keeps what it hears; an empty array stands for the end. */
  static class Kept implements StreamObserver<byte[]> {
    final BlockingQueue<byte[]> heard = new LinkedBlockingQueue<>();

    @Override
    public void onNext(byte[] message) {
      heard.add(message);
    }

    @Override
    public void onError(Throwable error) {
      heard.add(bytes(error));
    }

    @Override
    public void onCompleted() {
      heard.add(new byte[0]);
    }
  }

  static void exchange(String address) throws Exception {
    ManagedChannel channel = NettyChannelBuilder.forTarget(address).usePlaintext().disableRetry().build();
    for (int size : new int[] {0, 1, 16_384, 70_000, 3 << 20}) {
      byte[] message = new byte[size];
      byte[] answer = ClientCalls.blockingUnaryCall(channel, ECHO, CallOptions.DEFAULT, message);
      expect("echo of " + size, Arrays.equals(answer, message), true);
    }
    for (int code : new int[] {1, 2, 5, 14, 16}) {
      try {
        ClientCalls.blockingUnaryCall(channel, FAIL, CallOptions.DEFAULT, bytes(code));
        expect("status", 0, code);
      } catch (StatusRuntimeException e) {
        Status status = e.getStatus();
        expect("status", status.getCode().value() + " " + status.getDescription(), code + " as it was asked to");
      }
    }
    Metadata own = new Metadata();
    own.put(OWN, "of the client");
    Channel with = io.grpc.ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(own));
    byte[] metadata = ClientCalls.blockingUnaryCall(with, METADATA, CallOptions.DEFAULT, new byte[0]);
    expect("metadata", new String(metadata).contains("\"x-own\": \"of the client\"")
        || new String(metadata).contains("\"x-own\":\"of the client\""), true);
    Iterator<byte[]> many = ClientCalls.blockingServerStreamingCall(channel, MANY, CallOptions.DEFAULT, bytes(1000));
    for (int i = 0; i < 1000; i += 1) expect("many", number(many.next()), i);
    expect("many", many.hasNext(), false);
    Kept sum = new Kept();
    StreamObserver<byte[]> adding =
        ClientCalls.asyncClientStreamingCall(channel.newCall(SUM, CallOptions.DEFAULT), sum);
    for (int i = 0; i < 100; i += 1) adding.onNext(new byte[1000]);
    adding.onCompleted();
    expect("sum", number(sum.heard.take()), 100_000);
    Kept chat = new Kept();
    StreamObserver<byte[]> chatting =
        ClientCalls.asyncBidiStreamingCall(channel.newCall(CHAT, CallOptions.DEFAULT), chat);
    for (int i = 0; i < 100; i += 1) {
      chatting.onNext(bytes(i));
      expect("chat", number(chat.heard.take()), i);
    }
    chatting.onCompleted();
    expect("end of the chat", chat.heard.take().length, 0);
    channel.shutdownNow();
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments[0].equals("serve")) serve(Integer.parseInt(arguments[1]));
    else exchange(arguments[1]);
  }
}
